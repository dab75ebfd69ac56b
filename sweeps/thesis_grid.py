"""The thesis's grid: every sampler with every seed, recorded in MLflow, ending in the speed-up table and a report.

    python sweeps/thesis_grid.py                                   # demo data, this machine, minutes
    python sweeps/thesis_grid.py --store STORE --preset small      # your data, two cores, hours
    python sweeps/thesis_grid.py --store STORE --preset thesis --address auto --tracking-uri http://127.0.0.1:5000

The last one is §4.5 of the thesis to the letter: 10 seeds per sampler, 246 thousand iterations each, 40 to 50 hours a
run on the thesis's A100. The thesis found UIS +95 %, UIS-IR +129 %, and no speed-up for LIS and LIS-IR.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from isod.cli import add_run_options, adjust, choose_preset, choose_sampler, exit_cleanly
from isod.config import PRESETS, SAMPLERS, Preset

THESIS_SAMPLERS = ("baseline", "LIS", "UIS", "LIS-RB", "UIS-RB", "LIS-RHO", "LIS-IR", "UIS-IR")
DEMO_FRAMES = 1000
DEMO_SEED = 0
DEMO_SIZE = (160, 48)  # width, height: an eighth of the far region


def demo_store(out: Path) -> str:
    """The crop store of the demo data, made on first use and then kept in ``out``."""
    from isod.data.demo import write_demo
    from isod.data.store import CropStore
    from isod.errors import InputError
    from isod.orchestration.prepare import prepare_demo

    store = out / f"demo-store-{DEMO_FRAMES}-{DEMO_SIZE[0]}x{DEMO_SIZE[1]}"
    try:
        CropStore.open(str(store))
        print(f"demo data, made earlier: {store}")
    except InputError:
        root = out / f"demo-zod-{DEMO_FRAMES}"
        print(f"making {DEMO_FRAMES} demo frames in ZOD's layout: {root}")
        write_demo(root, frames=DEMO_FRAMES, seed=DEMO_SEED)
        print(prepare_demo(root, str(store), resize=DEMO_SIZE))
    return str(store)


def build_parser() -> argparse.ArgumentParser:
    """The script's options; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", metavar="STORE", help="crop store made by `isod prepare` (default: demo data)")
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: demo, or small)")
    names = [name for name in THESIS_SAMPLERS if name in SAMPLERS]
    parser.add_argument("--samplers", nargs="+", default=names, metavar="NAME", help=f"default: {' '.join(names)}")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per sampler, seeds 0 … N-1")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow's (default: OUT/mlflow.db)")
    parser.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: thesis-grid, one per store)")
    parser.add_argument("--address", metavar="ADDR", help="of a Ray cluster, e.g. auto (default: Ray on this machine)")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")
    add_run_options(parser)
    return parser


def run(options: argparse.Namespace) -> None:
    """Carries the sweep out and prints where to look."""
    preset: Preset = adjust(choose_preset(options.preset or ("small" if options.store else "demo")), options)
    samplers = [choose_sampler(name) for name in options.samplers]
    seeds = preset.seeds if options.seeds is None else options.seeds
    from isod.config import require

    require(seeds >= 1, "--seeds must be ≥ 1", seeds)
    require(len(set(options.samplers)) == len(samplers), "--samplers must name each sampler once", options.samplers)

    from isod.orchestration.sweep import Sweep, run_sweep
    from isod.results.command import results_command

    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    store = options.store or demo_store(out)
    if "://" not in store:
        store = str(Path(store).resolve())
    tracking_uri = options.tracking_uri or f"sqlite:///{out / 'mlflow.db'}"
    experiment = options.experiment or f"thesis-grid-{Path(store).name}"
    print(f"{len(samplers)} samplers × {seeds} seeds, {preset.training.iterations} iterations each")
    result = run_sweep(
        Sweep(
            name="thesis_grid",
            store=store,
            preset=preset,
            samplers=samplers,
            seeds=seeds,
            tracking_uri=tracking_uri,
            experiment=experiment,
            out=out,
            address=options.address,
        )
    )
    for name, reason in result.failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    report = results_command(tracking_uri, experiment, out / "report", sweep=result.parent_run_id)
    print(f"\nreport: {report}")
    print(f"compare runs: mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}")


def main() -> int:
    """Returns the exit code."""
    options = build_parser().parse_args()
    return exit_cleanly("thesis_grid", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
