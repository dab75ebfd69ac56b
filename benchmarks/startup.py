"""Start-up: seconds from the command of a sweep to its first training step, and for each further trial.

    python -m benchmarks.startup [--turns 3] [--samplers NAME …]

The command is ``python sweeps/thesis_grid.py --store STORE`` with demo crops, one seed and one iteration a trial; it
makes its MLflow database and starts Ray. A trial's first step is taken to be over when its folder has the metrics of
the validation that follows it, on ten crops. The trials run as many at once as fit the machine; what a further one
costs is the time between the first trial's first step and the last one's, over their number less one.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, environment, limits
from isod.cli.main import exit_cleanly
from isod.cli.sweep import demo_store
from isod.sampling.samplers import THESIS_SAMPLERS
from isod.vocabulary import METRICS

FRAMES = 50  # of the demo data: batches of 32 out of 40, ten to validate
MOST = {"first": 20.0, "further": 5.0}  # seconds, on two cores
DEFAULT_SAMPLERS = [name for name in THESIS_SAMPLERS if "RHO" not in name]  # a hold-out model is trained before a run


def first_steps(store: str, samplers: list[str], out: Path) -> list[float]:
    """Seconds from the command to the first step of each trial, ascending."""
    command = [sys.executable, "sweeps/thesis_grid.py", "--store", store, "--preset", "demo", "--seeds", "1",
               "--iterations", "1", "--validate-every", "1", "--out", str(out), "--samplers", *samplers]  # fmt: skip
    seen: dict[Path, float] = {}
    began = time.perf_counter()
    with (out.parent / f"{out.name}.log").open("w+") as log:
        sweep = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        while sweep.poll() is None:
            for file in out.glob(f"runs/*/*/{METRICS}"):
                seen.setdefault(file, time.perf_counter() - began)
            time.sleep(0.02)
        if sweep.returncode or len(seen) != len(samplers):
            log.seek(0)
            raise RuntimeError(f"the sweep ended with {sweep.returncode}: {log.read()[-500:]}")
    return sorted(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--samplers", nargs="+", default=DEFAULT_SAMPLERS, metavar="NAME", help="two or more")
    options = parser.parse_args()
    first, further = [], []
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            store = demo_store(Path(folder), FRAMES)
        for turn in range(options.turns):
            times = first_steps(store, options.samplers, Path(folder) / f"out{turn}")
            first.append(times[0])
            further.append((times[-1] - times[0]) / (len(times) - 1))
    print(f"{len(options.samplers)} trials of one step, preset demo.\n")
    print(
        limits(
            [
                ("from the command to the first training step", first, "s", MOST["first"]),
                ("each further trial", further, "s", MOST["further"]),
            ]
        )
    )


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.startup", None, main))
