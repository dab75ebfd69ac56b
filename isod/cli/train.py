"""``isod train``: one run in one process."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isod.cli.options import (
    OUT,
    TRAIN_FLAGS,
    add_experiment,
    add_settings,
    add_system_metrics,
    add_tracking_uri,
    choose_experiment,
    choose_preset,
    choose_sampler,
    choose_tracking,
    examples,
    refuse_unread,
)
from isod.config.overrides import Assignment, override
from isod.config.presets import PRESETS
from isod.config.settings import ResourceConfig, RunConfig
from isod.config.study import sections_of
from isod.console import Progress, progress_bar, say
from isod.sampling.samplers import SAMPLERS

if TYPE_CHECKING:
    from isod.training.run import Reporter, Run


def add_train_parser(commands: Any) -> None:
    """Add ``train STORE --out DIR`` to the commands."""
    parser = commands.add_parser(
        "train",
        help="train one detector with one sampler, without Ray",
        description="Train one detector with one sampler and one seed, in one process, without Ray.",
        **examples(
            "isod train demo-store --sampler UIS --out run --preset demo --iterations 100",
            "isod train demo-store --sampler UIS --out run-floor --set sampler.floor=0.1 training.eps=1e-8",
            "isod train demo-store --sampler UIS --out run --mlflow --tracking-uri http://127.0.0.1:5000",
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
    parser.add_argument("--mlflow", action="store_true", help="record the run in MLflow, as a sweep records its runs")
    add_tracking_uri(parser, "the database in out/")
    add_experiment(parser, "train-STORE")
    add_system_metrics(parser)
    add_settings(parser, TRAIN_FLAGS)
    parser.set_defaults(run=train)


def run_settings(sampler: str, preset: str, assignments: list[Assignment]) -> tuple[RunConfig, ResourceConfig]:
    """Return the settings of a run: those of the sampler and the preset, with the assignments."""
    sections = {"sampler": choose_sampler(sampler), **sections_of(choose_preset(preset), assignments)}
    changed = override(sections, assignments)
    resources = changed.pop("resources")
    return RunConfig(**changed), resources


def train(options: argparse.Namespace) -> int:
    """Train the run, or resume it; 1 if MLflow lacks some of its results at the end, else 0."""
    if not options.mlflow:
        given = {
            "--tracking-uri": options.tracking_uri,
            "--experiment": options.experiment,
            "--system-metrics": options.system_metrics,
        }
        refuse_unread(given, "is of a run in MLflow: add --mlflow")
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
    with progress_bar(config.training.iterations, what="training", unit="iterations", plain=False) as progress:
        undelivered = _start(run, options, ConsoleReporter(config.training.iterations, progress))
    print(f"config.json, metrics.csv, examples.parquet, model/: {options.out}")
    if undelivered:
        print(f"{undelivered}: repeat the command with --resume to deliver them", file=sys.stderr)
    return 1 if undelivered else 0


def _start(run: Run, options: argparse.Namespace, console: ConsoleReporter) -> str:
    """Train; return why MLflow lacks some of the results, nothing if it has all, or none was asked for."""
    if not options.mlflow:
        run.start(console, resume=options.resume, on_step=console.step)
        return ""
    from isod.files import output_folder
    from isod.tracking.client import is_server, open_experiment
    from isod.tracking.run_writer import recorded
    from isod.tracking.system_metrics import measured

    name = choose_experiment(options) or f"train-{Path(run.store.uri).name}"
    tracking_uri = choose_tracking(options)
    out = OUT if is_server(tracking_uri) else output_folder(OUT)  # for a database, and its artifacts
    experiment = open_experiment(tracking_uri, name, (out / "artifacts").as_uri())
    with recorded(run, experiment, resume=options.resume) as reporter, ExitStack() as stack:
        measuring: Reporter = stack.enter_context(measured(reporter)) if options.system_metrics else reporter
        run.start(Reporters(console, measuring), resume=options.resume, on_step=console.step)
    return reporter.undelivered


class Reporters:
    """Passes everything on to several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        for reporter in self._reporters:
            reporter.report(metrics, iteration)

    def replay(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        for reporter in self._reporters:
            reporter.replay(rows)


class ConsoleReporter:
    """Prints a line for each validation, and moves the bar at each step."""

    def __init__(self, iterations: int, progress: Progress) -> None:
        self._iterations = iterations
        self._progress = progress

    def step(self, iteration: int) -> None:
        """Called with the number of iterations done."""
        self._progress(iteration - self._progress.done)

    def report(self, metrics: dict[str, float], iteration: int) -> None:
        ess = "–" if math.isnan(metrics["sampler/ess"]) else f"{metrics['sampler/ess']:.3f}"
        self._progress.note = f"mAP {metrics['mAP']:.3f}"
        say(
            f"iteration {iteration:>7}/{self._iterations}  loss {metrics['train/loss']:.4f}"
            f"  mAP {metrics['mAP']:.4f}  ESS/N {ess}  {metrics['time/seconds']:.1f} s"
        )

    def replay(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        """Print nothing: these were printed when they came."""
