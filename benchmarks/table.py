"""Cost of drawing and updating: the importance table beside what else draws in proportion to scores.

    python benchmarks/table.py [--sizes 90000 1000000 10000000 100000000] [--batch 128] [--rounds 10] [--steps 200]

One step draws 128 indices with their probabilities and writes 128 new scores. The contenders take turns. Times are
medians in microseconds, the ratio is to our proportional draw at the same size in the same turns. Ours are whole
calls, with checks, statistics and the version that each draw carries. cpprb and torchrl are optional: a contender that
is not installed is left out with a line that says so. At N = 1e8 ours needs 2.4 GB, the peers up to 8 GB; those that do
not fit 16 GB together are measured in groups, ours in each; a contender that runs out of memory says "no memory".
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

SECONDS = 20.0  # at most, per contender and size: numpy takes seconds a draw at 1e8
MEMORY = 16e9  # bytes that the contenders of one group may take
BYTES = 80.0  # an example, of the hungriest contender
REFERENCE = "isod proportional"

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


def timed(draw: Step, update: Step, steps: int, seconds: float) -> list[tuple[float, float]]:
    """Seconds of each of ``steps`` alternating draws and updates, or of as many as fit ``seconds``; at least two."""
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < steps and (len(times) < 2 or time.perf_counter() < end):
        begin = time.perf_counter()
        draw()
        middle = time.perf_counter()
        update()
        times.append((middle - begin, time.perf_counter() - middle))
    return times


def medians(steps: dict[str, tuple[Step, Step]], rounds: int, each: int) -> dict[str, tuple[float, float]]:
    """Median microseconds of draw and update by contender. They take turns, ``rounds`` times ``each`` steps, so that a
    change in the machine's speed reaches all of them; the first round warms up and does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, (draw, update) in steps.items():
            taken = timed(draw, update, each, SECONDS / rounds)
            times[name] += taken if turn else []
    return {name: tuple(np.median(taken, axis=0) * 1e6) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[90_000, 1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10, help="turns that each contender gets at each size")
    parser.add_argument("--steps", type=int, default=200, help="draws and updates in a turn")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, torch {torch.__version__}, "
          f"numba {version('numba')}; batch {args.batch}, one thread")  # fmt: skip
    rows: list[tuple[int, str, str]] = []
    for n in args.sizes:
        waiting = list(args.only)
        while waiting:  # as many together as memory holds; ours is in each group, to compare with
            group = waiting[: max(1, int(MEMORY // (n * BYTES)) - 1)]
            waiting = waiting[len(group) :]
            names = group if REFERENCE in group else [REFERENCE, *group]
            print(f"N = {n}: {', '.join(names)}", flush=True)
            steps: dict[str, tuple[Step, Step]] = {}
            for name in names:
                rng = np.random.default_rng(0)
                try:
                    steps[name] = CONTENDERS[name](rng.random(n), args.batch, rng)
                except ImportError as error:
                    rows.append((n, name, f"not installed ({error.name})"))
                except (RuntimeError, MemoryError) as error:
                    why = f"cannot: {str(error).splitlines()[0]}" if str(error) else "no memory"
                    rows.append((n, name, why))
            times = medians(steps, args.rounds, args.steps)
            base = sum(times.get(REFERENCE, (np.nan,)))
            for name in group:
                if name in times:
                    draw, update = times[name]
                    both = draw + update
                    rows.append((n, name, f"{draw:9.1f} | {update:9.1f} | {both:9.1f} | {both / base:7.2f}"))
            del steps
    print("\n| N | contender | draw µs | update µs | both µs | ratio |\n|---|---|---|---|---|---|")
    for n, name, text in rows:
        print(f"| {n:.0e} | {name} | {text} |")


if __name__ == "__main__":
    main()
