"""Damaged inputs for every reader, for as long as asked.

    python -m tests.system.fuzz --minutes 10 [READER …]

Prints, per reader, how many inputs were tried and how many ended in anything but a result or a one-sentence refusal;
the first of each kind is kept as a file. Exit code 1 if there was one. An input that ends the whole process is left
behind as ``under-way-READER``.
"""

import argparse
import random
import secrets
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.system.fuzz.readers import READERS, Target

LONGEST = 1500  # characters of a refusal


def is_sentence(error: BaseException) -> bool:
    """One line of a length that can be read."""
    return 0 < len(str(error)) < LONGEST and "\n" not in str(error)


def fuzz(target: Target, rng: random.Random, *, seconds: float, keep: Path, name: str) -> tuple[int, int, int]:
    """Inputs tried, those that were refused, and those that crashed."""
    tried = refused = crashed = 0
    kinds: set[str] = set()
    under_way = keep / f"under-way-{name}"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = target.mutate(rng.choice(target.seeds), rng)
        tried += 1
        under_way.write_bytes(data)
        try:
            target.read(data)
        except target.refusals as error:
            refused += 1
            problem: BaseException | None = (
                None if is_sentence(error) else ValueError(f"not a sentence: {error!r:.200}")
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = error
        else:
            problem = None
        if problem is not None:
            crashed += 1
            where = traceback.extract_tb(problem.__traceback__)[-1:]
            kind = f"{type(problem).__name__} at {where[0].filename}:{where[0].lineno}" if where else str(problem)[:80]
            if kind not in kinds:
                kinds.add(kind)
                path = keep / f"crash-{name}-{len(kinds)}"
                path.write_bytes(data)
                print(f"  {kind}: {str(problem)[:200]} ({path})", flush=True)
    under_way.unlink(missing_ok=True)
    return tried, refused, crashed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for each reader (default 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), metavar="S", help="default: a random one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    total = 0
    keep = Path(tempfile.mkdtemp(prefix="isod-fuzz-"))
    for name in options.readers or READERS:
        with tempfile.TemporaryDirectory() as folder:
            target = READERS[name](Path(folder))
            for seed in target.seeds:
                target.read(seed) if name != "command" else None  # what is not damaged is read
            counts = fuzz(target, random.Random(options.seed), seconds=60 * options.minutes, keep=keep, name=name)
        print(f"{name}: {counts[0]} inputs in {options.minutes:g} min, {counts[1]} refused, {counts[2]} crashes "
              f"(seed {options.seed})", flush=True)  # fmt: skip
        total += counts[2]
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
