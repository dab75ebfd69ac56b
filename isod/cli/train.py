"""``isod train``: one run in one process."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from isod.cli.options import TRAIN_FLAGS, add_settings, choose_preset, choose_sampler, examples
from isod.config.overrides import Assignment, override
from isod.config.presets import PRESETS
from isod.config.settings import ResourceConfig, RunConfig
from isod.config.study import sections_of
from isod.sampling.samplers import SAMPLERS


def add_train_parser(commands: Any) -> None:
    """Add ``train STORE --out DIR`` to the commands."""
    parser = commands.add_parser(
        "train",
        help="train one detector with one sampler, without Ray or MLflow",
        description="Train one detector with one sampler and one seed, in one process, without Ray or MLflow.",
        **examples(
            "isod train demo-store --sampler UIS --out run --preset demo --iterations 100",
            "isod train demo-store --sampler UIS --out run-floor --set sampler.floor=0.1 training.eps=1e-8",
        ),
    )
    parser.add_argument("store", metavar="STORE", help="crop store made by `isod prepare`")
    parser.add_argument("--sampler", default="UIS", metavar="NAME",
                        help=f"one of {', '.join(SAMPLERS)} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--resume", action="store_true", help="resume the run in DIR from its last checkpoint")
    parser.add_argument("--preset", default="small", metavar="NAME",
                        help=f"one of {', '.join(PRESETS)} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: %(default)s")
    add_settings(parser, TRAIN_FLAGS)
    parser.set_defaults(run=train)


def run_settings(sampler: str, preset: str, assignments: list[Assignment]) -> tuple[RunConfig, ResourceConfig]:
    """Return the settings of a run: those of the sampler and the preset, with the assignments."""
    sections = {"sampler": choose_sampler(sampler), **sections_of(choose_preset(preset), assignments)}
    changed = override(sections, assignments)
    resources = changed.pop("resources")
    return RunConfig(**changed), resources


def train(options: argparse.Namespace) -> None:
    """Train the run, or resume it."""
    config, resources = run_settings(options.sampler, options.preset, options.assignments)
    from isod.data.store.split import CropStore
    from isod.files import absolute_uri
    from isod.training.device import choose_device
    from isod.training.folder import RunFolder
    from isod.training.run import Run

    run = Run(
        config=config,
        store=CropStore.open(absolute_uri(options.store)),
        folder=RunFolder(options.out),
        device=choose_device(options.device),
        resources=resources,
    )
    run.start(ConsoleReporter(config.training.iterations), resume=options.resume)
    print(f"config.json, metrics.csv, examples.parquet, model/: {options.out}")


class ConsoleReporter:
    """Prints a line for each validation."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        ess = "–" if math.isnan(metrics["sampler/ess"]) else f"{metrics['sampler/ess']:.3f}"
        print(
            f"iteration {iteration:>7}/{self._iterations}  loss {metrics['train/loss']:.4f}"
            f"  mAP {metrics['mAP']:.4f}  ESS/N {ess}  {metrics['time/seconds']:.1f} s"
        )

    def replay(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Print nothing: these were printed when they came."""
