"""A grid of samplers × seeds as Tune trials, recorded in MLflow."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from isod.config.overrides import replaced
from isod.config.record import CONTENTS, flatten
from isod.config.settings import Preset, ResourceConfig, RunConfig
from isod.console import in_notebook
from isod.data.store.split import CropStore
from isod.errors import InputError, require
from isod.files import folder_lock, output_folder
from isod.orchestration.cluster import connect, machine
from isod.orchestration.resources import concurrent_trials, reservation
from isod.orchestration.search import Plan, Search
from isod.orchestration.trial import run_trial
from isod.sampling.samplers import SamplerConfig
from isod.signals import handlers_kept
from isod.tracking.deliveries import PATIENCE
from isod.tracking.metric_names import class_tags
from isod.training.examples import check_examples, check_names, epoch_note
from isod.training.remote_folder import require_storage
from isod.version import source_commit
from isod.vocabulary import COMMIT_TAG, DEMO_TAG, KIND_TAG, MACHINE_TAG, SEARCH_TAG, SWEEP_TAG

if TYPE_CHECKING:
    from isod.tracking.client import Experiment

ATTEMPTS = 4  # at a trial whose process, table, worker or machine is lost

AfterRun = Callable[[str, str], None]  # given the parent run's id and the sampler's name of a run that has finished

log = logging.getLogger("isod")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to run and where its results go."""

    name: str  # the parent run's isod.sweep tag
    store: str  # URI of the crop store, readable from every node
    preset: Preset
    samplers: Sequence[SamplerConfig]
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # sampler name → settings of its own
    seeds: int  # runs per sampler
    first_seed: int = 0
    tracking_uri: str  # MLflow's
    experiment: str
    out: Path  # absolute; Tune's state and per-example statistics; shared storage on a cluster of several nodes
    storage: str = ""  # address in object storage for trials and artifacts, where nodes share no folder; "": ``out``
    address: str | None = None  # Ray's; None starts it here
    resume: bool = False  # resume the sweep of this name that began last, instead of beginning one
    system_metrics: bool = False  # whether each trial reports the use of its machine


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    parent_run_id: str
    finished: int  # runs of the sweep that are complete, those of earlier calls included
    failed: dict[str, str]  # trial name → the sentence it failed with
    unfinished: int  # trials that were not run to their end
    undelivered: str  # why MLflow lacks some of the results; empty if it has all


def run_sweep(
    sweep: Sweep, search: Search | None = None, after_run: AfterRun = lambda sweep, sampler: None
) -> SweepResult:
    """Runs every sampler with every seed; a trial that fails is reported and does not stop the others.

    Args:
        search: the trials in place of those of the grid; ``sweep`` then has the one sampler and seed that they share.
        after_run: called when a run has finished, and for those that a resumed sweep finds finished.
    Raises:
        InputError: before anything starts, for a store, setting, tracking URI or cluster that cannot be used, or an
            output folder that another process writes to.
    """
    store = CropStore.open(sweep.store)
    store.meta.require_objects(store.uri)
    preset = sweep.preset
    if search is None:
        grid = trial_grid(sweep)
        configs = grid[: len(sweep.samplers)]  # of one seed
        base = replace(grid[0], training=preset.training)
    else:
        grid = search.trials()
        configs = search.corners()
        base = configs[0]
    for config in configs:
        check_names(config)
        check_examples(config, store.split("train"))
        preset.resources.check_batch(config.training.batch_size)
        preset.resources.check_sampler(config.sampler)
        preset.resources.check_regions(config.training.regions)
    if sweep.storage:
        rule = "runs of several processes share a folder: workers_per_trial must be 1 where --storage is given"
        require(preset.resources.workers_per_trial == 1, rule, preset.resources.workers_per_trial)
        require_storage(sweep.storage)
    for note in dict.fromkeys(epoch_note(config, store.split("train")) for config in configs):
        if note:
            log.info(note)
    if base.training.compiled and (shared_by := preset.resources.workers_per_trial) > 1:
        log.info("note: torch.compile is for runs of one process: these, of %d each, train without", shared_by)
    with folder_lock(output_folder(sweep.out)):
        return _run_grid(sweep, search, store, base, grid, configs, after_run)


def _run_grid(
    sweep: Sweep,
    search: Search | None,
    store: CropStore,
    base: RunConfig,
    grid: list[RunConfig],
    configs: list[RunConfig],
    after_run: AfterRun,
) -> SweepResult:
    """Run the trials of a sweep whose settings are checked and whose folder is locked."""
    preset = sweep.preset
    with ThreadPoolExecutor(1) as beside:  # each takes seconds, and Ray's are spent waiting for its processes
        opened = beside.submit(_open_mlflow, sweep)
        connect(sweep.address)
        experiment = opened.result()
    from isod.orchestration.mlflow_callback import MLflowCallback
    from isod.orchestration.progress import ProgressView
    from isod.tracking.context import run_context
    from isod.tracking.dataset import store_input
    from isod.tracking.sweep_writer import SweepWriter, begin_sweep, resume_sweep

    total = len(grid) if search is None else search.count
    concurrent = _concurrency(sweep, total)
    _log_idle_workers(preset.resources, configs)

    if search is None:
        kind, varied = SWEEP_TAG, [name for name in flatten(base) if name.startswith(("sampler.", "training.seed"))]
    else:
        kind, varied = SEARCH_TAG, search.study.varied
    shared = {name: value for name, value in flatten(base).items() if name not in varied}
    tags = {
        **run_context(),
        **({} if search is None else {KIND_TAG: "search"}),
        COMMIT_TAG: source_commit(),
        DEMO_TAG: str(store.meta.demo).lower(),
        MACHINE_TAG: machine(),
    }
    dataset = store_input(store)
    settings = {"store": sweep.store, CONTENTS: store.meta.contents, **shared}
    if sweep.storage:
        settings["storage"] = sweep.storage
    if search is not None:
        settings |= search.study.record
    folders = f"{sweep.storage or sweep.out}/runs"
    if sweep.resume:
        trials = {config.name: config for config in grid}
        record = resume_sweep(experiment, sweep.name, settings, tags, trials, runs=folders, kind=kind)
    else:
        begun = {**tags, **class_tags(store.meta.class_names)}
        record = begin_sweep(experiment, sweep.name, settings, begun, dataset, kind=kind)
    tell = functools.partial(after_run, record.parent_run_id)
    if search is None:
        todo = [config for config in grid if config.name not in record.finished]
        plan = Plan(len(todo), {"run": tune.grid_search(todo)})
        for sampler in {config.sampler.name for config in grid if config.name in record.finished}:
            tell(sampler)
    else:
        plan = search.plan(record, sweep.tracking_uri)
    if plan.count < total:
        log.info("%d of %d runs are finished and not run again", total - plan.count, total)

    runs = f"{folders}/{record.parent_run_id}"
    if not sweep.storage:
        Path(runs).mkdir(parents=True, exist_ok=True)  # by which --resume knows the sweep
    what, stated = ("sweep", []) if search is None else ("search", varied)
    progress = ProgressView(plan.count, base.training.iterations, what=what, varied=stated)
    trainable = functools.partial(
        run_trial,
        store_uri=sweep.store,
        runs=runs,
        holdout=str(sweep.out / "holdout"),
        started_in=os.getcwd(),
        resources=preset.resources,
        system_metrics=sweep.system_metrics,
        sweep=sweep.name,
    )
    writer = SweepWriter(
        experiment,
        record,
        params={"store": sweep.store},
        tags=tags,
        class_names=store.meta.class_names,
        dataset=dataset,
    )
    with progress.shown():
        try:
            if plan.count:
                callbacks = [MLflowCallback(writer, runs=runs, after_run=tell), progress]
                _tune(sweep, trainable, plan, concurrent, callbacks)
        finally:
            unfinished = plan.count - progress.done
            undelivered = writer.close("KILLED" if unfinished else "FINISHED", patience=PATIENCE)
    finished = len(record.finished) + progress.done - len(writer.failed)
    return SweepResult(record.parent_run_id, finished, writer.failed, unfinished, undelivered)


def trial_grid(sweep: Sweep) -> list[RunConfig]:
    """The run of every trial.

    Seeds are the outer loop, so that an interrupted sweep holds whole, paired comparisons. Within a seed those come
    first that take longest: a hold-out model is trained before the run itself.
    """
    samplers = sorted(sweep.samplers, key=lambda sampler: not sampler.holdout)
    preset = sweep.preset
    return [
        RunConfig(
            sampler=sampler,
            detector=preset.detector,
            training=replaced(preset.training, {"seed": seed, **sweep.training.get(sampler.name, {})}),
            holdout=preset.holdout,
        )
        for seed in range(sweep.first_seed, sweep.first_seed + sweep.seeds)
        for sampler in samplers
    ]


def _open_mlflow(sweep: Sweep) -> Experiment:
    """Open the experiment. Importing MLflow takes seconds, so this module does it here only, while Ray starts."""
    from isod.tracking.client import open_experiment

    artifacts = f"{sweep.storage}/artifacts" if sweep.storage else (sweep.out / "artifacts").as_uri()
    return open_experiment(sweep.tracking_uri, sweep.experiment, artifacts)


def _log_idle_workers(resources: ResourceConfig, configs: list[RunConfig]) -> None:
    """Log which samplers' lag is too small to give every decode worker work."""
    for lag in sorted({config.training.lag for config in configs}):
        if (busy := resources.busy_workers(lag)) < resources.decode_workers:
            names = ", ".join(dict.fromkeys(c.sampler.name for c in configs if c.training.lag == lag))
            log.info(
                f"note: a lag of {lag} gives work to {busy} of a run's {resources.decode_workers} decode workers at a "
                f"time; --lag bounds how far they read ahead ({names})"
            )


def _concurrency(sweep: Sweep, trials: int) -> int | None:
    """How many trials may run at once; None on a cluster, which may grow: there their reservations alone decide."""
    total = ray.cluster_resources()
    try:
        fit = concurrent_trials(
            sweep.preset.resources, cpus=total.get("CPU", 0), gpus=total.get("GPU", 0), trials=trials
        )
        return fit if sweep.address is None else None
    except InputError as error:
        if sweep.address is None:
            raise
        log.info("waiting for the cluster to grow: %s", error)
        return None


def _tune(
    sweep: Sweep,
    trainable: Callable[..., None],
    plan: Plan,
    concurrent: int | None,
    callbacks: list[tune.Callback],
) -> None:
    """Let Tune run the trials. Its own folder goes when nothing in it explains a failure."""
    from isod.orchestration.progress import NoReporter

    # For Lightning's sake Tune gives trials a variable in their environment. Ray then starts every process of theirs
    # anew, through one more process of Python, while those that it has started in advance stay unused.
    class_cache.DEFAULT_ENV_VARS.clear()
    name = f"tune-{time.time_ns()}"
    tuner = tune.Tuner(
        tune.with_resources(trainable, reservation(sweep.preset.resources)),
        param_space=plan.space,
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True, **plan.options),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(sweep.out),
            callbacks=callbacks,
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            verbose=0,
            progress_reporter=NoReporter() if in_notebook() else None,
        ),
    )
    with handlers_kept(signal.SIGINT):  # Tune leaves its own one of Ctrl-C behind, which by then ends nothing any more
        errors = tuner.fit().errors
    if not errors:
        shutil.rmtree(sweep.out / name, ignore_errors=True)
