"""Cost of drawing and updating: the importance table beside what else draws in proportion to scores.

    python -m benchmarks.table [--sizes 90000 1000000 10000000 100000000] [--batch 128] [--rounds 10] [--steps 200]
                               [--only NAME …] [--small-pages] [--builds N]

The same for all: one step draws 128 indices with their probabilities out of the same scores, and writes 128 new ones,
on one thread. The contenders take turns; a figure is a turn's median over its steps. Ours are whole calls, with checks,
statistics and the version that each draw carries. cpprb and torchrl are optional. At N = 1e8 ours needs 2.4 GB, the
peers up to 8 GB; those that do not fit 16 GB together are measured in groups, ours in each; a contender that runs out
of memory says so. A table with a prior is to take at most 1.1 times as long as one without, turn by turn.
``--small-pages`` forbids Linux to use huge pages for any of them: what a draw costs where there are none to be had.

``--builds N`` asks something else: whether a table's speed depends on where its memory came to lie. It builds our
proportional table N times, one after the other, and sets the time of a draw and update beside that of numpy reading
the same table's scores at random places, which no code of ours can change.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Figures, NotRun, comparison, installed, limits, number, spread, take_turns
from isod.sampling import ImportanceTable

READS = 100_000  # random places that a round reads
SECONDS = 20.0  # at most, per contender and size: numpy takes seconds a draw at 1e8
MEMORY = 16e9  # bytes that the contenders of one group may take
BYTES = 80.0  # an example, of the hungriest contender
REFERENCE = "isod proportional"
PEERS = ("torchrl SumSegmentTree", "cpprb", "torch.multinomial", "numpy Generator.choice")

PRIORS = ("isod with a prior", "isod prior alone")  # each turn's time over that of the reference's turn

Step = Callable[[], None]
Builder = Callable[[Any, int, np.random.Generator], tuple[Step, Step]]  # (scores, batch, rng) → draw, update


def ours(*, with_prior: bool = False, **settings: Any) -> Builder:
    """An ImportanceTable with these settings, and a random prior if asked for."""

    def build(scores: Any, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
        table = ImportanceTable(len(scores), seed=0, **settings)
        if with_prior:
            table.set_prior(rng.uniform(0.25, 4, len(scores)))
        if table.config.holdout:
            table.set_offset(rng.uniform(0, 1, len(scores)))
        fill(table, scores)
        return steps_of(table, batch, rng)

    return build


def fill(table: ImportanceTable, scores: Any) -> None:
    """Gives every example its score."""
    for start in range(0, len(scores), 1 << 20):
        table.update(np.arange(start, min(start + (1 << 20), len(scores))), scores[start : start + (1 << 20)])


def steps_of(table: ImportanceTable, batch: int, rng: np.random.Generator) -> tuple[Step, Step]:
    """A draw, and an update of what was drawn."""
    last = table.draw(batch)
    fresh = rng.random(batch)

    def draw() -> None:
        nonlocal last
        last = table.draw(batch)

    def update() -> None:
        table.update(last.indices, fresh)

    return draw, update


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
    installed("cpprb")
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
    installed("torchrl")
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
    "isod with a prior": ours(with_prior=True),
    "isod prior alone": ours(with_prior=True, strategy="prior", start="prior"),
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


def turn(draw: Step, update: Step, steps: int, seconds: float) -> float:
    """Median microseconds of draw and update, over ``steps`` of them or as many as fit ``seconds``; at least two."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < steps and (len(times) < 2 or time.perf_counter() < end):
        begin = time.perf_counter()
        draw()
        update()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e6


def measure(names: list[str], n: int, batch: int, rounds: int, steps: int) -> dict[str, Figures]:
    """Figures of these contenders at one size, in the order of their names."""
    figures: dict[str, Figures] = {}
    ready: dict[str, Callable[[], float]] = {}
    for name in names:
        rng = np.random.default_rng(0)
        figures[name] = []
        try:
            draw, update = CONTENDERS[name](rng.random(n), batch, rng)
            ready[name] = lambda d=draw, u=update: turn(d, u, steps, SECONDS / rounds)  # type: ignore[misc]
        except NotRun as reason:
            figures[name] = str(reason)
        except (RuntimeError, MemoryError) as error:
            figures[name] = str(error).splitlines()[0] if str(error) else "no memory"
    return figures | take_turns(ready, rounds, warm_up=1)


def turn_by_turn(figures: dict[str, Figures], name: str) -> Figures:
    """A contender's figures over those of the reference in the same turns, or why there are none."""
    found, reference = figures[name], figures[REFERENCE]
    if isinstance(found, str) or isinstance(reference, str):
        return next(reason for reason in (found, reference) if isinstance(reason, str))
    return [one / other for one, other in zip(found, reference, strict=True)]


def builds(n: int, batch: int, tables: int, rounds: int, steps: int) -> None:
    """Prints of one table after another its draw + update beside random reads of its own scores."""
    print("| build | draw + update, µs | lowest … highest | a random read, ns | lowest … highest |")
    print("|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    scores = rng.random(n)
    for build in range(1, tables + 1):
        table = ImportanceTable(n, seed=build)
        fill(table, scores)
        draw, update = steps_of(table, batch, rng)
        places = [rng.integers(0, n, READS) for _ in range(rounds + 1)]
        times: list[float] = []
        reads: list[float] = []
        for at in places:
            times.append(turn(draw, update, steps, SECONDS / rounds))
            begin = time.perf_counter()
            table.scores[at]
            reads.append((time.perf_counter() - begin) / READS * 1e9)
        times, reads = times[1:], reads[1:]  # the first turn warms up
        cells = [cell for figures in (times, reads) for cell in (number(median(figures)), spread(figures))]
        print(f"| {build} | {' | '.join(cells)} |", flush=True)
        del table, draw, update


def forbid_huge_pages() -> None:
    """Of this process's memory from now on. Raises OSError where Linux refuses."""
    PR_SET_THP_DISABLE = 41
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[90_000, 1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10, help="turns that each contender gets at each size")
    parser.add_argument("--steps", type=int, default=200, help="draws and updates in a turn")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--builds", type=int, default=0, metavar="N", help="see above")
    parser.add_argument("--small-pages", action="store_true", help="without huge pages")
    args = parser.parse_args()
    if args.small_pages:
        forbid_huge_pages()
    torch.set_num_threads(1)
    print(f"The same for all: the scores, batches of {args.batch}, one thread, indices and probabilities out.")
    for n in args.sizes:
        if args.builds:
            print(f"\nN = {n:,}:\n")
            builds(n, args.batch, args.builds, args.rounds, args.steps)
            continue
        waiting = [name for name in args.only if name != REFERENCE]
        others = max(1, int(MEMORY // (n * BYTES)) - 1)  # as many together as memory holds; ours is in each group
        for first in range(0, max(1, len(waiting)), others):
            names = [REFERENCE, *waiting[first : first + others]]
            figures = measure(names, n, args.batch, args.rounds, args.steps)
            targets = dict.fromkeys(PEERS, 1.0)
            print(f"\nN = {n:,}:\n\n{comparison(figures, 'draw + update, µs', less_is_better=True, targets=targets)}")
            if priors := [name for name in PRIORS if name in figures]:
                print(f"\n{limits([(name, turn_by_turn(figures, name), '×', 1.1) for name in priors])}")


if __name__ == "__main__":
    main()
