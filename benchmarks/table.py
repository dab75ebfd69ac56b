"""Cost of drawing and updating: the importance table beside what else draws in proportion to scores.

    python benchmarks/table.py [--sizes 90000 1000000 10000000 100000000] [--batch 128] [--steps 2000]

One step draws 128 indices with their probabilities and writes 128 new scores. Times are medians in microseconds, the
ratio is to our proportional draw at the same size. Ours are whole calls, with checks, statistics and the version that
each draw carries. cpprb and torchrl are optional: a contender that is not installed is left out with a line that says
so. At N = 1e8 ours needs 2.4 GB, the peers up to 8 GB; a contender that runs out of memory says "no memory".
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from isod.sampling import ImportanceTable

Step = Callable[[], None]
Builder = Callable[[Any, int, np.random.Generator], tuple[Step, Step]]  # (scores, batch, rng) → draw, update


def ours(**settings: Any) -> Builder:
    """An ImportanceTable with these settings."""

    def build(scores: Any, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
        n = len(scores)
        table = ImportanceTable(n, seed=0, **settings)
        for start in range(0, n, 1 << 20):
            table.update(np.arange(start, min(start + (1 << 20), n)), scores[start : start + (1 << 20)])
        last = table.draw(batch)
        fresh = rng.random(batch)

        def draw() -> None:
            nonlocal last, fresh
            last = table.draw(batch)

        def update() -> None:
            table.update(last.indices, fresh)

        print(f"    {table.nbytes / n:.2f} bytes an example", flush=True)
        return draw, update

    return build


def numpy_choice(scores: Any, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
    """numpy.random.Generator.choice(p=…): normalises and sums up all N at every draw."""
    indices, fresh = rng.integers(0, len(scores), batch), rng.random(batch)

    def draw() -> None:
        nonlocal indices
        p = scores / scores.sum()
        indices = rng.choice(len(p), batch, p=p)
        p[indices]

    def update() -> None:
        scores[indices] = fresh

    return draw, update


def torch_multinomial(scores: Any, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
    """torch.multinomial: at most 2²⁴ categories."""
    weights = torch.from_numpy(scores)
    indices, fresh = torch.zeros(batch, dtype=torch.int64), torch.rand(batch, dtype=torch.float64)

    def draw() -> None:
        nonlocal indices
        indices = torch.multinomial(weights, batch, replacement=True)
        weights[indices] / weights.sum()

    def update() -> None:
        weights[indices] = fresh

    draw()
    return draw, update


def cpprb_buffer(scores: Any, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
    """cpprb's prioritised replay buffer: C++ sum and min segment trees."""
    from cpprb import PrioritizedReplayBuffer

    n = len(scores)
    buffer = PrioritizedReplayBuffer(n, {"x": {"dtype": np.int8}}, alpha=1.0, eps=0.0)
    for start in range(0, n, 1 << 20):
        part = scores[start : start + (1 << 20)]
        buffer.add(x=np.zeros(len(part), np.int8), priorities=part)
    indices, fresh = np.zeros(batch, np.int64), rng.random(batch)

    def draw() -> None:
        nonlocal indices
        indices = buffer.sample(batch, beta=1.0)["indexes"]

    def update() -> None:
        buffer.update_priorities(indices, fresh)

    return draw, update


def torchrl_tree(scores: Any, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
    """torchrl's C++ sum segment tree: no probabilities floor, smoothing, statistics or checks."""
    from torchrl._torchrl import SumSegmentTreeFp64

    n = len(scores)
    tree = SumSegmentTreeFp64(n)
    for start in range(0, n, 1 << 20):
        tree.update(np.arange(start, min(start + (1 << 20), n)), scores[start : start + (1 << 20)].copy())
    indices, fresh = np.zeros(batch, np.int64), rng.random(batch)

    def draw() -> None:
        nonlocal indices
        total = tree.query(0, n)
        indices = tree.scan_lower_bound(rng.random(batch) * total)
        tree.at(indices) / total

    def update() -> None:
        tree.update(indices, fresh)

    return draw, update


CONTENDERS: dict[str, Builder] = {
    "isod proportional": ours(),
    "isod smoothing + floor": ours(floor=0.2),
    "isod RHO (shifted)": ours(strategy="shifted", holdout=True),
    "isod rank, exponential": ours(strategy="rank"),
    "isod decayed": ours(strategy="decayed"),
    "isod rejection": ours(strategy="rejection"),
    "torchrl SumSegmentTree": torchrl_tree,
    "cpprb": cpprb_buffer,
    "torch.multinomial": torch_multinomial,
    "numpy Generator.choice": numpy_choice,
}


def medians(draw: Step, update: Step, steps: int, seconds: float = 20.0) -> tuple[float, float]:
    """Median microseconds of ``steps`` alternating draws and updates, or of as many as fit ``seconds``."""
    times = np.zeros((steps, 2))
    end = time.perf_counter() + seconds
    for step in range(steps):
        begin = time.perf_counter()
        draw()
        middle = time.perf_counter()
        update()
        times[step] = middle - begin, time.perf_counter() - middle
        if time.perf_counter() > end and step >= 4:
            times = times[: step + 1]
            break
    draw_time, update_time = np.median(times, axis=0) * 1e6
    return float(draw_time), float(update_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[90_000, 1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, torch {torch.__version__}, "
          f"numba {version('numba')}; batch {args.batch}, one thread")  # fmt: skip
    rows = []
    for n in args.sizes:
        base = None
        for name in args.only:
            print(f"N = {n}: {name}", flush=True)
            rng = np.random.default_rng(0)
            try:
                draw, update = CONTENDERS[name](rng.random(n), args.batch, rng)
                times = medians(draw, update, args.steps)
            except ImportError as error:
                rows.append((n, name, f"not installed ({error.name})"))
                continue
            except (RuntimeError, MemoryError) as error:
                rows.append((n, name, f"cannot: {str(error).splitlines()[0]}" if str(error) else "no memory"))
                continue
            base = base or sum(times)
            rows.append((n, name, f"{times[0]:9.1f} | {times[1]:9.1f} | {sum(times):9.1f} | {sum(times) / base:7.2f}"))
            del draw, update
    print("\n| N | contender | draw µs | update µs | both µs | ratio |\n|---|---|---|---|---|---|")
    for n, name, text in rows:
        print(f"| {n:.0e} | {name} | {text} |")


if __name__ == "__main__":
    main()
