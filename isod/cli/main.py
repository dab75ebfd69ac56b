"""isod demo | prepare | samplers | train | results | triage: the command line.

Bad input ends with one sentence on standard error and exit code 2; a regression that ``isod results`` was asked to fail
on, with one line per class and size and exit code 1.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isod.config.presets import PRESETS
from isod.config.settings import Preset, RunConfig
from isod.errors import InputError, unknown
from isod.messages import messages_to
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.signals import sigterm_as_ctrl_c


def choose_sampler(name: str) -> SamplerConfig:
    """The named sampler. Raises InputError with the names there are."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def choose_preset(name: str) -> Preset:
    """The named preset. Raises InputError with the names there are."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def set_given(config: Any, **values: Any) -> Any:
    """The dataclass with every value that is not None replaced; its own checks refuse a wrong one."""
    return replace(config, **{key: value for key, value in values.items() if value is not None})


def adjust(preset: Preset, options: argparse.Namespace) -> Preset:
    """The preset with the run options that were given on the command line."""
    return replace(
        preset,
        detector=set_given(preset.detector, width=options.width),
        training=set_given(
            preset.training,
            iterations=options.iterations,
            batch_size=options.batch_size,
            validate_every=options.validate_every,
            lag=options.lag,
            lr=options.lr,
            lr_schedule=options.lr_schedule,
            loss_normalisation=options.loss_normalisation,
            compiled=options.compiled,
            decode_on_device=options.decode_on_device,
        ),
        resources=set_given(preset.resources, decode_workers=options.workers, threads=options.threads),
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options that a single run and a sweep share; each one overrides the preset."""
    group = parser.add_argument_group("run", "each overrides the preset")
    group.add_argument("--iterations", type=int, metavar="N", help="optimizer steps")
    group.add_argument("--batch-size", type=int, metavar="N", help="crops per step")
    group.add_argument("--validate-every", type=int, metavar="N", help="iterations between two validations")
    group.add_argument("--width", type=float, metavar="X", help="feature multiplier of the ResNet (thesis: 0.5)")
    group.add_argument("--lr", type=float, metavar="X", help="Adam's learning rate")
    group.add_argument("--lr-schedule", metavar="NAME", help="constant, or cosine: down to 0 at the last iteration")
    group.add_argument("--loss-normalisation", metavar="NAME", help="what counts equally in the loss: location, object")
    group.add_argument(
        "--lag",
        type=int,
        metavar="N",
        help="draw t sees the scores of steps up to t - 1 - N; up to N batches are read ahead",
    )
    group.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=None,
                       help="train through torch.compile: a minute, then faster steps on a GPU")  # fmt: skip
    group.add_argument("--decode-on-device", action=argparse.BooleanOptionalAction, default=None,
                       help="have the GPU decode the drawn crops, where CPU cores are too few for it")  # fmt: skip
    group.add_argument("--workers", type=int, metavar="N", help="decode workers per run")
    group.add_argument("--threads", type=int, metavar="N", help="torch's CPU threads per run")


def _demo(options: argparse.Namespace) -> None:
    from isod.data.demo.zod_layout import write_demo

    write_demo(options.root, frames=options.frames, seed=options.seed)
    print(f"demo data (synthetic, in ZOD's layout): {options.root}")


def _samplers(options: argparse.Namespace) -> None:
    rows = [("sampler", "heuristic", "reduction", "strategy", "source")]
    for sampler in SAMPLERS.values():
        parts = (sampler.heuristic, sampler.reduction) if sampler.heuristic else ("–", "–")
        rows.append((sampler.name, *parts, sampler.strategy, sampler.source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _train(options: argparse.Namespace) -> None:
    preset = adjust(choose_preset(options.preset), options)
    config = RunConfig(
        sampler=choose_sampler(options.sampler),
        detector=preset.detector,
        training=set_given(preset.training, seed=options.seed),
        holdout=preset.holdout,
    )
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
        resources=preset.resources,
    )
    with messages_to(print):
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


def _results(options: argparse.Namespace) -> int:
    from isod.results.command import RegressionError, results_command

    try:
        results_command(
            options.tracking_uri,
            options.experiment,
            options.out,
            sweep=options.sweep,
            metric=options.metric,
            fail_on_regression=options.fail_on_regression,
            save=options.save,
        )
    except RegressionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _triage(options: argparse.Namespace) -> None:
    from isod.results.triage.command import triage_command

    page = triage_command(
        options.tracking_uri,
        options.run_name,
        options.store,
        options.out,
        experiment=options.experiment,
        top=options.top,
    )
    print(f"contact sheet: {page}, for annotators: {page.with_suffix('.csv')}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; each sets ``run`` to the function that carries it out."""
    parser = argparse.ArgumentParser(prog="isod", description="Importance sampling for object detectors.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="write synthetic data in ZOD's own layout")
    demo.add_argument("root", type=Path, metavar="ROOT")
    demo.add_argument("--frames", type=int, default=1000, metavar="N", help="frames in all (default 1000)")
    demo.add_argument("--seed", type=int, default=0, metavar="S")
    demo.set_defaults(run=_demo)

    from isod.cli.prepare import add_prepare_parser

    add_prepare_parser(commands)

    commands.add_parser("samplers", help="every named sampler: its parts, and what it is from").set_defaults(
        run=_samplers
    )

    train = commands.add_parser("train", help="one run in one process, without Ray or MLflow")
    train.add_argument("store", metavar="STORE", help="crop store made by `isod prepare`")
    train.add_argument("--sampler", default="UIS", metavar="NAME", help=f"one of {', '.join(SAMPLERS)}")
    train.add_argument("--seed", type=int, default=0, metavar="S")
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.add_argument("--resume", action="store_true", help="go on with the run in DIR, from its last checkpoint")
    train.add_argument("--preset", default="small", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default small)")
    train.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add_run_options(train)
    train.set_defaults(run=_train)

    results = commands.add_parser("results", help="speed-up table, figures and report from MLflow runs")
    results.add_argument("--tracking-uri", required=True, metavar="URI")
    results.add_argument("--experiment", required=True, metavar="NAME")
    results.add_argument("--out", type=Path, required=True, metavar="DIR")
    results.add_argument("--sweep", metavar="RUN_ID", help="parent run of the sweep (default: the one started last)")
    results.add_argument("--metric", default="mAP", metavar="NAME", help="of the printed table, e.g. AP_small/Animal")
    results.add_argument("--save", type=Path, metavar="DIR", help="keep runs and curves there, as Parquet files")
    results.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit code 1 if a class or size ended lower than the baseline by more than its own seed-to-seed spread",
    )
    results.set_defaults(run=_results)

    triage = commands.add_parser("triage", help="the examples a run drew most, and what may be wrong with their labels")
    triage.add_argument("--tracking-uri", required=True, metavar="URI")
    triage.add_argument("--run", required=True, dest="run_name", metavar="RUN", help="run id, or a name: UIS-seed0")
    triage.add_argument("--experiment", metavar="NAME", help="where to look for the run (default: everywhere)")
    triage.add_argument("--store", required=True, metavar="STORE", help="crop store that the run trained on")
    triage.add_argument("--out", type=Path, required=True, metavar="DIR")
    triage.add_argument("--top", type=int, default=100, metavar="N", help="how many examples (default %(default)s)")
    triage.set_defaults(run=_triage)
    return parser


def _is_text(word: str) -> bool:
    """Whether it can name a file everywhere: bytes that are no UTF-8 reach Python as half surrogate pairs."""
    return "\0" not in word and not any("\ud800" <= character <= "\udfff" for character in word)


def exit_cleanly(program: str, arguments: Sequence[str] | None, action: Callable[[], int | None]) -> int:
    """Runs the action and returns its exit code, or 0; bad input is one sentence on standard error and exit code 2, a
    loss that is not finite one and exit code 1. A Ctrl-C or SIGTERM that the action does not deal with itself is a word
    and exit code 130 or 143.

    Args:
        arguments: of the command line; None for the process's own.
    """
    with sigterm_as_ctrl_c() as terminated:
        code = _exit_code(program, arguments, action)
        return 143 if code == 130 and terminated else code


def _exit_code(program: str, arguments: Sequence[str] | None, action: Callable[[], int | None]) -> int:
    try:
        for word in sys.argv[1:] if arguments is None else arguments:
            if not _is_text(word):
                raise InputError(f"{word!r:.200} is no UTF-8 text, as file names and all else must be")
        return action() or 0
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"{program}: {error}: lower --lr, or look at these examples", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 141  # what a shell gives for SIGPIPE
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            where = f"{error.filename}: {error.strerror}"
            print(f"{program}: {where}: see to that, or name another folder", file=sys.stderr)
            return 2
        if error.errno == errno.ENAMETOOLONG:
            name = str(error.filename or error)
            print(f"{program}: {name[:100]}{'…' * (len(name) > 100)} is too long a name for a file", file=sys.stderr)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" that holds {error.filename}" if error.filename else ""
        print(f"{program}: the disk{where} is full: what was written stays; free some space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``isod`` command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    return exit_cleanly("isod", arguments, lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
