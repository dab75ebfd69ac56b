"""A study's command line: a named grid of samplers × seeds, ending in the speed-up table and a report.

The scripts in sweeps/ are each a ``Study`` and a docstring; what they share is here.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isod.cli.main import add_run_options, adjust, choose_preset, exit_cleanly, set_given
from isod.config.presets import PRESETS
from isod.config.settings import Preset
from isod.data.store.split import CropStore
from isod.errors import InputError, require, unknown
from isod.sampling.samplers import SAMPLERS, SamplerConfig

DEMO_SEED = 0
DEMO_SIZE = (160, 48)  # width, height: an eighth of the far region


def demo_store(out: Path, frames: int) -> str:
    """The crop store of the demo data, made on first use and then kept in ``out``."""
    from isod.data.demo.zod_layout import write_demo
    from isod.data.prepare.job import prepare_demo
    from isod.orchestration.prepare import on_cluster

    store = out / f"demo-store-{frames}-{DEMO_SIZE[0]}x{DEMO_SIZE[1]}"
    try:
        CropStore.open(str(store))
        print(f"demo data, made earlier: {store}")
    except InputError:
        root = out / f"demo-zod-{frames}"
        print(f"making {frames} demo frames in ZOD's layout: {root}")
        write_demo(root, frames=frames, seed=DEMO_SEED)
        print(prepare_demo(root, str(store), resize=DEMO_SIZE, map_chunks=on_cluster()))
    return str(store)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a sweep script runs by default."""

    name: str  # of the script, without .py: the parent run's isod.sweep tag
    samplers: Sequence[SamplerConfig]  # names are unique: MLflow knows a run by its sampler's name and its seed
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # sampler name → settings of its own
    extra: Sequence[SamplerConfig] = ()  # run where --samplers names them
    store: Callable[[Path, str], str] | None = None  # output folder, preset → what to use without --store; None: demo
    images: Path | None = None  # folder that ``store`` reads; one that is not there is refused before anything starts
    preset: str = "demo"  # for that store

    def __post_init__(self) -> None:
        every = [*self.samplers, *self.extra]
        names = [sampler.name for sampler in every]
        if len(set(names)) != len(names) or not self.training.keys() <= set(names):
            raise ValueError(f"study {self.name}: names repeated, or settings for others than {names}")
        for sampler in every:
            if SAMPLERS.get(sampler.name, sampler) != sampler:
                raise ValueError(f"study {self.name}: {sampler.name!r} is the name of another sampler")

    def choose(self, names: Sequence[str] | None) -> list[SamplerConfig]:
        """The samplers of these names, which may be any that isod knows; the study's own where None.

        Raises:
            InputError: an unknown name, with the names there are, or a repeated one.
        """
        if names is None:
            return list(self.samplers)
        known = SAMPLERS | {sampler.name: sampler for sampler in (*self.samplers, *self.extra)}
        for name in names:
            if name not in known:
                raise unknown("sampler", name, known)
        require(len(set(names)) == len(names), "--samplers must name each sampler once", names)
        return [known[name] for name in names]


def under(
    settings: Mapping[str, Mapping[str, Any]], bases: Iterable[SamplerConfig]
) -> list[tuple[SamplerConfig, Mapping[str, Any]]]:
    """Samplers as they are, each under each other setting of the training, for a study's samplers and its ``training``.

    Args:
        settings: what a sampler's name gains → the settings.
    """
    return [
        (replace(base, name=f"{base.name}-{suffix}"), setting) for base in bases for suffix, setting in settings.items()
    ]


def build_parser(study: Study, description: str | None) -> argparse.ArgumentParser:
    """The options of a study's script; ``description`` is its docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = " ".join(sampler.name for sampler in study.samplers)
    prefix = experiment_prefix(study)
    data = "the study's own images" if study.store else "demo data"
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--store", metavar="STORE", help=f"crop store made by `isod prepare` (default: {data})")
    if study.store is None:
        source.add_argument(
            "--demo-frames", type=int, default=1000, metavar="N", help="of the demo data (default 1000)"
        )
    parser.add_argument(
        "--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: {study.preset}, or small)"
    )
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help=f"default: {names}")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs per sampler, seeds 0 … N-1")
    parser.add_argument("--first-seed", type=int, default=0, metavar="K",
                        help="seeds K … K+N-1 instead: what another machine has not run")  # fmt: skip
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow's (default: OUT/mlflow.db)")
    parser.add_argument("--experiment", metavar="NAME", help=f"MLflow experiment (default: {prefix}, one per store)")
    parser.add_argument("--address", metavar="ADDR", help="of a Ray cluster, e.g. auto (default: Ray on this machine)")
    parser.add_argument("--workers-per-trial", type=int, metavar="N",
                        help="processes, each with its GPU, that share every batch of a run (default 1)")  # fmt: skip
    parser.add_argument("--gpus-per-trial", type=float, metavar="X",
                        help="0.25: four runs share a GPU; 0: on the CPU (default: the preset's)")  # fmt: skip
    parser.add_argument("--resume", action="store_true",
                        help="go on with the sweep that began last with these settings in OUT")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")
    add_run_options(parser)
    return parser


def experiment_prefix(study: Study) -> str:
    """What the default name of the MLflow experiment begins with."""
    return study.name.replace("_", "-")


def run(study: Study, options: argparse.Namespace) -> int:
    """Carries the sweep out and prints where to look; 1 if a run failed or was not finished, else 0."""
    size = options.preset or ("small" if options.store else study.preset)
    preset: Preset = adjust(choose_preset(size), options)
    shared = {"workers_per_trial": options.workers_per_trial, "gpus_per_trial": options.gpus_per_trial}
    preset = replace(preset, resources=set_given(preset.resources, **shared))
    preset.resources.check_batch(preset.training.batch_size)
    samplers = study.choose(options.samplers)
    seeds = preset.seeds if options.seeds is None else options.seeds
    require(seeds >= 1, "--seeds must be ≥ 1", seeds)
    require(options.first_seed >= 0, "--first-seed must be ≥ 0", options.first_seed)

    if options.store:
        CropStore.open(options.store)
    elif study.images is not None and not study.images.is_dir():
        raise InputError(
            f"no images at {study.images}: prepare some with `isod prepare coco` and name the store with --store"
        )

    from isod.files import absolute_uri, output_folder
    from isod.orchestration.cluster import connect
    from isod.orchestration.resources import check_gpus_here
    from isod.orchestration.sweep import Sweep, run_sweep

    if options.address is None:
        check_gpus_here(preset.resources)
    out = output_folder(options.out)
    store = options.store
    tracking_uri = options.tracking_uri or f"sqlite:///{out / 'mlflow.db'}"
    if not store:
        from isod.tracking.client import check_tracking

        check_tracking(tracking_uri)
        connect(options.address)  # first: preparing would start Ray on this machine
        store = study.store(out, size) if study.store else demo_store(out, options.demo_frames)
    store = absolute_uri(store)
    experiment = options.experiment or f"{experiment_prefix(study)}-{Path(store).name}"
    print(f"{len(samplers)} samplers × {seeds} seeds, {preset.training.iterations} iterations each")
    result = run_sweep(
        Sweep(
            name=study.name,
            store=store,
            preset=preset,
            samplers=samplers,
            training=study.training,
            seeds=seeds,
            first_seed=options.first_seed,
            tracking_uri=tracking_uri,
            experiment=experiment,
            out=out,
            address=options.address,
            resume=options.resume,
        )
    )
    for name, reason in result.failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    again = "the same command with --resume goes on"
    if result.unfinished:
        print(f"{result.unfinished} runs were not finished: {again}", file=sys.stderr)
    if result.undelivered:
        print(f"{result.undelivered}: all results are in {out / 'runs'}; {again} and delivers them", file=sys.stderr)
    code = 1 if result.failed or result.unfinished or result.undelivered else 0
    if not result.finished:
        return code  # there is nothing to compare
    from isod.results.command import results_command
    from isod.tracking.client import is_server  # MLflow and Matplotlib: a sweep does not wait for them to begin

    results_command(tracking_uri, experiment, out / "report", sweep=result.parent_run_id)
    server = is_server(tracking_uri)
    print(f"compare runs: {tracking_uri if server else f'mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}'}")
    return code


def main(study: Study, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """Entry point of a study's script; returns the exit code."""
    options = build_parser(study, description).parse_args(arguments)
    return exit_cleanly(study.name, arguments, lambda: run(study, options))
