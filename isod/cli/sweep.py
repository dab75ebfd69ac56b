"""``isod sweep``: a grid of samplers × seeds, ending in the speed-up table and a report.

The scripts in sweeps/ are each a ``Study`` and a docstring; they end in ``main``, with the options of ``isod sweep``.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isod.cli.main import exit_cleanly
from isod.cli.options import (
    OUT,
    SWEEP_FLAGS,
    CommandParser,
    add_experiment,
    add_quiet,
    add_settings,
    add_system_metrics,
    add_tracking_uri,
    choose_experiment,
    choose_preset,
    choose_tracking,
    examples,
)
from isod.config.overrides import override
from isod.config.presets import PRESETS
from isod.config.settings import ResourceConfig
from isod.config.study import Study, read_study, sections_of
from isod.console import progress_bar, quiet
from isod.errors import InputError, require
from isod.sampling.samplers import SAMPLERS, THESIS_SAMPLERS

if TYPE_CHECKING:
    from isod.orchestration.sweep import SweepResult

DEMO_SEED = 0
DEMO_SIZE = (160, 48)  # width, height: an eighth of the far region
IMAGES = ("images", "train.json", "val.json")  # what the folder of --images holds
DEFAULT = Study(name="sweep", samplers=[SAMPLERS[name] for name in THESIS_SAMPLERS])

logger = logging.getLogger("isod")

StoreFromImages = Callable[[Path, Path, str], str]  # folder of images, output folder, preset → crop store


def demo_store(out: Path, frames: int) -> str:
    """Return the crop store of the demo data, which is made on first use and then kept in ``out``."""
    from isod.data.demo.zod_layout import write_demo
    from isod.data.prepare.job import prepare_demo
    from isod.data.store.split import CropStore
    from isod.orchestration.prepare import on_cluster

    store = out / f"demo-store-{frames}-{DEMO_SIZE[0]}x{DEMO_SIZE[1]}"
    try:
        CropStore.open(str(store))
        logger.info("demo data, made earlier: %s", store)
    except InputError:
        root = out / f"demo-zod-{frames}"
        logger.info("making %d demo frames in ZOD's layout: %s", frames, root)
        with progress_bar(frames, what="writing") as advance:
            write_demo(root, frames=frames, seed=DEMO_SEED, progress=advance)
        logger.info("%s", prepare_demo(root, str(store), resize=DEMO_SIZE, map_chunks=on_cluster()))
    return str(store)


def coco_store(images: Path, store: Path, **settings: Any) -> str:
    """Return the crop store of the folder that ``--images`` names, which is made on first use and then kept.

    Args:
        settings: of ``PrepareSettings``: how its images become crops.
    """
    from isod.data.prepare.job import prepare
    from isod.data.prepare.settings import PrepareSettings
    from isod.data.readers.coco import CocoReader

    folder, train, val = (images / name for name in IMAGES)
    report = prepare(CocoReader((folder, train), (folder, val)), store, PrepareSettings(**settings))
    logger.info("%s", report)
    return report.store


def add_sweep_parser(commands: Any) -> None:
    """Add ``sweep [STUDY]`` to the commands."""
    parser = commands.add_parser(
        "sweep",
        help="train a grid of samplers × seeds and compare them",
        description="Train every sampler with every seed on Ray, record the runs in MLflow, and end with the speed-up\n"
        "table and an HTML report.",
        **examples(
            "isod sweep                                          # the thesis's samplers on demo data",
            "isod sweep --demo-frames 200 --samplers baseline LIS --seeds 1 --iterations 100",
            "isod sweep --store STORE --samplers baseline UIS --seeds 5",
            "isod sweep study.toml --store STORE --resume",
        ),
    )
    parser.add_argument("study", nargs="?", type=Path, metavar="STUDY.toml",
                        help="TOML file with samplers and settings (isod.config.study describes it)")  # fmt: skip
    add_sweep_options(parser, DEFAULT)
    parser.set_defaults(run=lambda options: run(read_study(options.study) if options.study else DEFAULT, options))


def build_parser(
    study: Study, description: str | None, *, store_from_images: StoreFromImages | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a study's script; ``description`` is its docstring."""
    parser = CommandParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sweep_options(parser, study, images=store_from_images is not None)
    add_quiet(parser)
    return parser


def add_sweep_options(parser: argparse.ArgumentParser, study: Study, *, images: bool = False) -> None:
    """Add the options of a sweep.

    Args:
        study: whose defaults the help texts state.
        images: offer ``--images`` in place of demo data.
    """
    names = " ".join(sampler.name for sampler in study.samplers)
    add_source(parser, study.preset, images=images)
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help=f"default: {names}")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs per sampler, seeds 0 … N-1 (default: the preset's)"
    )
    parser.add_argument("--first-seed", type=int, default=0, metavar="K",
                        help="run seeds K … K+N-1 instead, those that another machine does not run")  # fmt: skip
    add_places(parser, "sweep", experiment_prefix(study.name))
    add_settings(parser, SWEEP_FLAGS)


def add_source(parser: argparse.ArgumentParser, preset: str | None, *, images: bool = False) -> None:
    """Add the options that choose the crop store and the preset.

    Args:
        preset: the study's own.
        images: offer ``--images`` in place of demo data.
    """
    source = parser.add_mutually_exclusive_group()
    default = "" if images else " (default: demo data)"
    source.add_argument("--store", metavar="STORE", help=f"crop store made by `isod prepare`{default}")
    if images:
        source.add_argument("--images", type=Path, metavar="FOLDER", help=f"folder with {', '.join(IMAGES)}")
    else:
        source.add_argument("--demo-frames", type=int, default=1000, metavar="N",
                            help="frames of the demo data (default: %(default)s)")  # fmt: skip
    preset = preset or "demo on demo data, small on a store"
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: {preset})")


def add_places(parser: argparse.ArgumentParser, what: str, experiment: str) -> None:
    """Add the options that say where trials run and where their results go.

    Args:
        what: sweep or search.
        experiment: what the default name of the MLflow experiment begins with.
    """
    add_tracking_uri(parser, "a database in the --out folder")
    add_experiment(parser, f"{experiment}-STORE")
    add_system_metrics(parser)
    parser.add_argument("--address", metavar="ADDR",
                        help="Ray cluster to run on, such as auto (default: the one whose `ray job submit` runs this, "
                        "else start Ray on this machine)")  # fmt: skip
    parser.add_argument("--dashboard", action="store_true",
                        help="serve Ray's dashboard on loopback; with --address, print the cluster's")  # fmt: skip
    parser.add_argument(
        "--resume",
        action="store_true",
        help=f"resume the {what} that began with these settings: of several the one in the --out folder with the most "
        "of these runs, then the newest",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR",
                        help="folder for all results (default: %(default)s)")  # fmt: skip
    parser.add_argument("--storage", default="", metavar="URI",
                        help="address such as s3://bucket/isod for checkpoints, models and MLflow's files, where "
                        "machines share no folder (default: the --out folder)")  # fmt: skip


def experiment_prefix(name: str) -> str:
    """Return what the default name of the MLflow experiment of a study begins with."""
    return name.replace("_", "-")


def run(study: Study, options: argparse.Namespace, store_from_images: StoreFromImages | None = None) -> int:
    """Run the sweep and print where its results are; 1 if a run failed or was not finished, else 0.

    Args:
        store_from_images: makes the crop store of ``--images``, if the script has that option.
    """
    size = choose_size(options, study.preset)
    study = replace(study, settings=[*study.settings, *options.assignments])
    preset = choose_preset(size)
    preset = replace(preset, **override(sections_of(preset, study.settings), study.settings))
    preset.resources.check_batch(preset.training.batch_size)
    samplers = study.choose(options.samplers)
    seeds = study.seeds or preset.seeds if options.seeds is None else options.seeds
    require(seeds >= 1, "--seeds must be ≥ 1", seeds)
    require(options.first_seed >= 0, "--first-seed must be ≥ 0", options.first_seed)

    places = choose_places(options, size, preset.resources, experiment_prefix(study.name), store_from_images)
    logger.info("%d samplers × %d seeds, %d iterations each", len(samplers), seeds, preset.training.iterations)
    from isod.cli.interim import InterimReport
    from isod.orchestration.sweep import Sweep, run_sweep

    report = places.out / "report"
    interim = InterimReport(
        ["--tracking-uri", places.tracking_uri, "--experiment", places.experiment, "--out", str(report)]
    )
    try:
        result = run_sweep(
            Sweep(
                name=study.name,
                preset=preset,
                samplers=samplers,
                training=study.training,
                seeds=seeds,
                first_seed=options.first_seed,
                **vars(places),
            ),
            after_run=interim.run_finished,
        )
    finally:
        interim.close()
    code = print_end(result, places.storage or places.out)
    if not result.finished:
        return code  # there is nothing to compare
    # MLflow and Matplotlib: a sweep does not wait for them to begin
    from isod.results.command import results_command

    page, table = results_command(places.tracking_uri, places.experiment, report, sweep=result.parent_run_id)
    publish(places.tracking_uri, result.parent_run_id, page.parent, table)
    return code


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where trials run and where their results go, as ``Sweep`` takes it."""

    store: str
    tracking_uri: str
    experiment: str
    out: Path
    storage: str
    address: str | None
    resume: bool
    system_metrics: bool


def choose_size(options: argparse.Namespace, preset: str | None) -> str:
    """Return the name of the preset: the option's, else the study's, else one that suits the data."""
    return options.preset or preset or ("small" if options.store else "demo")


def choose_places(
    options: argparse.Namespace,
    size: str,
    resources: ResourceConfig,
    experiment: str,
    store_from_images: StoreFromImages | None = None,
) -> Places:
    """Check where trials run and where their results go; make the crop store where none is named.

    Args:
        size: name of the preset.
        experiment: what the default name of the MLflow experiment begins with.
    """
    images: Path | None = getattr(options, "images", None)
    if store_from_images is not None and not options.store and images is None:
        raise InputError(f"name a folder with {', '.join(IMAGES)} as --images, or a crop store as --store")
    if images is not None:
        if absent := [name for name in IMAGES if not (images / name).exists()]:
            raise InputError(f"--images {images} has no {' and no '.join(absent)}: name a folder with all three, or "
                             "prepare the images with `isod prepare` and name the crop store with --store")  # fmt: skip
    elif options.store:
        from isod.data.store.split import CropStore

        CropStore.open(options.store)

    from isod.files import absolute_uri, output_folder
    from isod.orchestration.cluster import address_of_job, connect, open_dashboard
    from isod.orchestration.resources import check_gpus_here

    storage = options.storage.rstrip("/")
    if options.storage:
        require("://" in storage, "--storage must be an address such as s3://bucket/isod", options.storage)
        if storage.startswith("s3:"):
            import boto3  # noqa: F401 - with which MLflow stores files there, after hours
    address = options.address or address_of_job()
    if address is None:
        check_gpus_here(resources)
    out = output_folder(options.out)
    store = options.store
    tracking_uri = choose_tracking(options, out)
    if options.dashboard:
        logger.info("Ray's dashboard: %s", open_dashboard(address))
    if not store:
        from isod.tracking.client import check_tracking

        check_tracking(tracking_uri)
        connect(address)  # first: preparing would start Ray on this machine
        if images is not None and store_from_images is not None:
            store = store_from_images(images, out, size)
        else:
            store = demo_store(out, options.demo_frames)
    store = absolute_uri(store)
    return Places(
        store=store,
        tracking_uri=tracking_uri,
        experiment=choose_experiment(options) or f"{experiment}-{Path(store).name}",
        out=out,
        storage=storage,
        address=address,
        resume=options.resume,
        system_metrics=options.system_metrics,
    )


def print_end(result: SweepResult, out: Path | str) -> int:
    """Print what failed, was not finished or not delivered; return 1 if anything was, else 0."""
    for name, reason in result.failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    again = "repeat the command with --resume"
    if result.unfinished:
        print(f"{result.unfinished} runs were not finished: {again} to finish them", file=sys.stderr)
    if result.undelivered:
        print(f"{result.undelivered}: all results are in {out}/runs; {again} to deliver them", file=sys.stderr)
    return 1 if result.failed or result.unfinished or result.undelivered else 0


def publish(tracking_uri: str, parent_run_id: str, folder: Path, text: str) -> None:
    """Store a report at its parent run, and print where MLflow shows it."""
    from isod.tracking.client import is_server
    from isod.tracking.published import publish_results, runs_page

    page = ""
    if undelivered := publish_results(tracking_uri, parent_run_id, folder, text):
        print(f"the report is not in MLflow ({undelivered})", file=sys.stderr)
    else:
        page = runs_page(tracking_uri, parent_run_id)
    if is_server(tracking_uri):
        print(f"compare runs: {tracking_uri.rstrip('/')}{page}")
    else:
        print(f"compare runs: mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}")
        print(f"and open http://127.0.0.1:5000{page}")


def main(
    study: Study,
    description: str | None,
    arguments: Sequence[str] | None = None,
    *,
    store_from_images: StoreFromImages | None = None,
) -> int:
    """Entry point of a study's script; returns the exit code.

    Args:
        description: the script's docstring, which ``--help`` prints.
        arguments: of the command line; None for the process's own.
        store_from_images: makes a crop store of a folder of images; with it the script has the option ``--images``.
    """
    parser = build_parser(study, description, store_from_images=store_from_images)

    def run_study() -> int:
        options = parser.parse_args(arguments)
        with quiet(options.quiet):
            return run(study, options, store_from_images)

    return exit_cleanly(study.name, arguments, run_study)
