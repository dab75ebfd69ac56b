"""MLflow runs → pandas: one sweep of one experiment, its finished runs and their curves.

A sweep is a parent run tagged ``isod.sweep``; its trials are child runs with parameters ``sampler``, ``seed`` and
``store`` and metrics at step = iteration. Nothing but MLflow is read, from a database file or from a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from isod.config.record import DEFAULTS, current
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS
from isod.tracking.histories import connect, explained, read_histories
from isod.vocabulary import BASELINE, COMMIT_TAG, DEMO_TAG, DEVICE_TAG, HEADLINE, MACHINE_TAG, PARENT_TAG, SWEEP_TAG

BySeed = TypeVar("BySeed", pd.DataFrame, pd.Series)

# Settings that all samplers of a sweep share, and sweeps that are joined; a study may give a sampler others of its own
SHARED = r"^params\.(detector\..*|(training\.)?(iterations|batch_size|lr))$"


@dataclass(frozen=True)
class Runs:
    """The finished runs of one sweep, comparable with one another: same store, same validation grid."""

    tracking_uri: str
    experiment: str
    sweep_id: str  # run id of the parent
    sweep: str  # its isod.sweep tag
    tags: dict[str, str]  # of the parent, and isod.commit of the runs
    # index run_id; sampler, seed (int), start (UTC), device where it was recorded, and every parameter as text under
    # params.<name>
    runs: pd.DataFrame
    curves: pd.DataFrame  # sampler, seed, metric, step, value; one row per logged value
    left_out: pd.DataFrame  # run_id, sampler, seed, status, reason: runs of the sweep that do not enter

    @cached_property
    def _positions(self) -> dict[tuple[str, str], np.ndarray]:
        """Rows of ``curves`` by metric and sampler: a report asks for hundreds of curves among a million rows."""
        return self.curves.groupby(["metric", "sampler"], observed=True).indices  # type: ignore[return-value]

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Rows of ``curves`` by metric, in their order."""
        return self.curves.groupby("metric", observed=True).indices  # type: ignore[return-value]

    @property
    def samplers(self) -> list[str]:
        """Samplers that have finished runs: the baseline first, then the named ones in their order, then others."""
        known = list(SAMPLERS)
        present = set(self.runs["sampler"])
        return sorted(present, key=lambda s: (s != BASELINE, known.index(s) if s in known else len(known), s))

    @property
    def strategies(self) -> dict[str, str]:
        """The strategy of each sampler, by name, as far as it was recorded."""
        return self._setting("sampler.strategy")

    @property
    def scoreless(self) -> set[str]:
        """The baseline, and what draws by no score either, as far as it was recorded."""
        return {BASELINE, *(sampler for sampler, name in self._setting("sampler.heuristic").items() if name == "None")}

    @property
    def with_holdout(self) -> list[str]:
        """Samplers that need a hold-out model, as far as it was recorded."""
        return [sampler for sampler, held in self._setting("sampler.holdout").items() if held == "True"]

    def _setting(self, name: str) -> dict[str, str]:
        """A setting of each sampler as text, by the sampler's name, in the order of names."""
        column = f"params.{name}"
        return dict(self.runs.groupby("sampler")[column].first()) if column in self.runs else {}

    @property
    def devices(self) -> dict[str, int]:
        """How many runs trained on each device, as far as it was recorded; the most used one first."""
        counts = self.runs["device"].value_counts() if "device" in self.runs else pd.Series(dtype=int)
        return {str(device): int(count) for device, count in counts.items()}

    @property
    def names(self) -> list[str]:
        """Of classes and samplers: what figures have to write."""
        return [*self.class_names, *self.samplers]

    @property
    def is_demo(self) -> bool:
        """Whether the runs trained on demo data, which every result must then say."""
        return self.tags.get(DEMO_TAG) == "true"

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any finished run has."""
        return sorted(self._rows)

    @cached_property
    def class_names(self) -> list[str]:
        """Classes with ground truth in the validation set, most objects first."""
        counts = {m.removeprefix("GT/"): self.last(m) for m in self.metrics if m.startswith("GT/")}
        return sorted((c for c, count in counts.items() if count > 0), key=lambda c: (-counts[c], c))

    def curve(self, metric: str, sampler: str) -> pd.DataFrame:
        """[iteration × seed] values of a metric; no columns if the sampler never logged it."""
        rows = self.curves.iloc[self._positions.get((metric, sampler), [])]
        return rows.pivot(index="step", columns="seed", values="value").sort_index()

    def mean_curve(self, metric: str, sampler: str) -> pd.Series:
        """Mean over seeds, by iteration; NaN where a seed has no value."""
        return self.curve(metric, sampler).mean(axis=1, skipna=False)

    @property
    def grid(self) -> pd.Index:
        """Iterations at which every run was validated, increasing."""
        rows = self.curves.iloc[self._rows[HEADLINE]]
        return pd.Index(np.sort(rows["step"].unique()), name="step")

    def final(self, metric: str, sampler: str) -> pd.Series:
        """Value of a metric at the last validation, by seed; NaN where it was not logged there."""
        return self.curve(metric, sampler).reindex([self.grid[-1]]).iloc[0]

    def last(self, metric: str) -> float:
        """The last logged value of a metric that all runs share, such as a count of ground truth; NaN if absent."""
        rows = self.curves.iloc[self._rows.get(metric, [])]
        return float(rows["value"].iloc[int(rows["step"].argmax())]) if len(rows) else float("nan")


def of_the_same_seeds(baseline: BySeed, other: BySeed) -> tuple[BySeed, BySeed, int]:
    """Both, of the seeds that both have, and how many these are; of all of each, and 0, where they share none.

    Args:
        baseline, other: curves [iteration × seed], or one value by seed.
    """
    seeds = baseline.keys().intersection(other.keys())
    return (baseline[seeds], other[seeds], len(seeds)) if len(seeds) else (baseline, other, 0)


def load_runs(tracking_uri: str, experiment: str, sweep: str | None = None) -> Runs:
    """Read one sweep from MLflow.

    Only FINISHED runs enter; failed, killed and running ones are listed in ``left_out``, and so is a run that was
    repeated later with the same sampler and seed.

    Args:
        tracking_uri: as MLflow takes it, e.g. ``sqlite:////path/mlflow.db`` or ``http://host:5000``.
        experiment: its name.
        sweep: run id of the parent to read; None for the one that was started last.
    Raises:
        InputError: store unreadable or unreachable, no such experiment or sweep, no finished run, or runs that cannot
            be compared: different stores, or validations at different iterations.
    """
    client = connect(tracking_uri)
    with explained(tracking_uri):
        found = client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            names = ", ".join(sorted(e.name for e in client.search_experiments())) or "none"
            raise InputError(f"{tracking_uri} has no experiment {experiment!r}; it has: {names}")
        every_run = _search(client, found.experiment_id)
        parent = _choose_sweep(every_run, experiment, sweep)
        children = [r for r in every_run if r.data.tags.get(PARENT_TAG) == parent.info.run_id]
        table, left_out = _tabulate(children)
        name = parent.data.tags.get(SWEEP_TAG, parent.info.run_name or parent.info.run_id)
        if table.empty:
            states = Counter(left_out["status"].str.lower())
            listed = ", ".join(f"{n} {status}" for status, n in states.items()) or "none started"
            raise InputError(f"sweep {name!r} of experiment {experiment!r} has no finished run ({listed})")
        _require_one_store(table, name)
        curves = _read_curves(tracking_uri, table, {r.info.run_id: r for r in children})
    without = table.index[~table.index.isin(curves.loc[curves["metric"] == HEADLINE, "run_id"])]
    if len(without):
        reasons = table.loc[without, ["sampler", "seed"]].assign(status="FINISHED", reason=f"logged no {HEADLINE}")
        left_out = pd.concat([left_out, reasons.rename_axis("run_id").reset_index()], ignore_index=True)
        table, curves = table.drop(without), curves[~curves["run_id"].isin(without)]
        if table.empty:
            raise InputError(f"no finished run of sweep {name!r} logged {HEADLINE}, so there is nothing to compare")
    _require_one_grid(curves)
    commits = sorted({r.data.tags[COMMIT_TAG] for r in children if COMMIT_TAG in r.data.tags})
    return Runs(
        tracking_uri=tracking_uri,
        experiment=experiment,
        sweep_id=parent.info.run_id,
        sweep=name,
        tags={**parent.data.tags, **({COMMIT_TAG: ", ".join(commits)} if commits else {})},
        runs=table,
        curves=curves.drop(columns="run_id").reset_index(drop=True),
        left_out=left_out,
    )


def joined_runs(parts: Sequence[Runs]) -> Runs:
    """Sweeps that belong together as one: seeds or samplers that ran on other machines, or in other MLflow stores.

    What the first is called, the whole is called; machines and commits are those of all. The store may lie elsewhere on
    each machine: the same name and the same ground truth make it the same. ``load_examples`` and ``write_report`` ask
    one MLflow store, so they know the runs of the first sweep only.

    Raises:
        InputError: no sweep at all, or sweeps that cannot be compared: other stores, validations at other iterations,
            other settings of a sampler, of the network, or of the iterations or the batch size, or the same sampler and
            seed in two of them.
    """
    if not parts:
        raise InputError("there is no sweep to join")
    first = parts[0]
    for part in parts[1:]:
        _require_same_data(first, part)
    table = stores_by_name(pd.concat([part.runs for part in parts]))
    _require_one_store(table, first.sweep)
    twice = table[table.duplicated(["sampler", "seed"])]
    if len(twice):
        sampler, seed = twice.iloc[0][["sampler", "seed"]]
        raise InputError(f"sampler {sampler} with seed {seed} is in two of the sweeps: leave one of them out")
    _require_same_settings(table)
    curves = pd.concat([part.curves.astype({"sampler": object, "metric": object}) for part in parts], ignore_index=True)
    _require_one_grid(curves)
    machines = [part.tags[MACHINE_TAG] for part in parts if MACHINE_TAG in part.tags]
    commits = [commit for part in parts if COMMIT_TAG in part.tags for commit in part.tags[COMMIT_TAG].split(", ")]
    tags = dict(first.tags)
    if machines:
        tags[MACHINE_TAG] = "; ".join(dict.fromkeys(machines))
    if commits:
        tags[COMMIT_TAG] = ", ".join(dict.fromkeys(commits))
    return replace(
        first,
        tags=tags,
        runs=table.sort_values(["sampler", "seed"]),
        curves=curves.astype({"sampler": "category", "metric": "category"}),
        left_out=pd.concat([part.left_out for part in parts], ignore_index=True),
    )


def name_of(store: str) -> str:
    """A store's name without the place where it lies: of a path or a URI the last part, without query."""
    return PurePosixPath(urlsplit(store).path if "://" in store else store).name


def stores_by_name(table: pd.DataFrame) -> pd.DataFrame:
    """The table of runs with each store's name only, if it has stores."""
    if "params.store" not in table:
        return table
    return table.assign(**{"params.store": table["params.store"].map(name_of, na_action="ignore")})


def _require_same_data(first: Runs, part: Runs) -> None:
    """By what every run logs of the validation set, and by whether it is demo data."""
    if first.is_demo != part.is_demo:
        raise InputError("a sweep on demo data and one on other data cannot be joined")
    theirs, ours = ({m: runs.last(m) for m in runs.metrics if m.startswith("GT")} for runs in (first, part))
    for metric in sorted(theirs.keys() & ours.keys()):
        if theirs[metric] != ours[metric]:
            raise InputError(
                f"the sweeps were validated on different stores ({metric.replace('GT', 'ground truth', 1)}: "
                f"{theirs[metric]:g} and {ours[metric]:g} objects) and cannot be joined"
            )


def _require_same_settings(table: pd.DataFrame) -> None:
    """Runs of one sampler differ in nothing but their seed, and no run in what all samplers share.

    A setting that runs of an older version do not record is newer than they are, and its default is what they did.
    """
    settings = table.filter(like="params.").drop(columns=["params.seed", "params.training.seed"], errors="ignore")
    records = [
        current({str(k): v for k, v in row.dropna().items()}, prefix="params.") for _, row in settings.iterrows()
    ]
    settings = pd.DataFrame(records, index=settings.index)
    settings = settings.fillna({f"params.{name}": str(value) for name, value in DEFAULTS.items()})
    groups = [(f"sampler {sampler}", rows) for sampler, rows in settings.groupby(table["sampler"])]
    for whose, rows in (*groups, ("all samplers", settings.filter(regex=SHARED))):
        for name in rows.columns[rows.nunique(dropna=False) > 1]:
            values = " and ".join(map(str, rows[name].fillna("not recorded").unique()))
            raise InputError(
                f"the runs of {whose} had different settings ({name.removeprefix('params.')}: {values}) "
                "and cannot be joined"
            )


def _search(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Every run of the experiment, the one that started last first."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], order_by=["attributes.start_time DESC"], page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _choose_sweep(runs: list[Run], experiment: str, sweep: str | None) -> Run:
    parents = [r for r in runs if SWEEP_TAG in r.data.tags and PARENT_TAG not in r.data.tags]
    if not parents:
        raise InputError(
            f"experiment {experiment!r} holds no sweep: none of its {len(runs)} runs is tagged {SWEEP_TAG}"
        )
    if sweep is None:
        return parents[0]
    for parent in parents:
        if parent.info.run_id == sweep:
            return parent
    listed = ", ".join(f"{p.info.run_id} ({p.data.tags[SWEEP_TAG]})" for p in parents)
    raise InputError(f"experiment {experiment!r} has no sweep {sweep!r}; it has: {listed}")


def _tabulate(children: list[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished runs, and those left out with the reason. Children come latest first, so the first of a pair stays."""
    kept: dict[tuple[str, int], dict] = {}
    left_out = []
    for run in children:
        params, run_id = run.data.params, run.info.run_id
        sampler, seed, status = params.get("sampler", "?"), params.get("seed", ""), run.info.status
        reason = ""
        if status != "FINISHED":
            reason = {"RUNNING": "still running", "SCHEDULED": "not started"}.get(status, "did not finish")
        elif "sampler" not in params or not seed.isdigit():
            reason = "has no parameters sampler and seed"
        elif (sampler, int(seed)) in kept:
            reason = f"repeated later as run {kept[sampler, int(seed)]['run_id']}"
        if reason:
            left_out.append({"run_id": run_id, "sampler": sampler, "seed": seed, "status": status, "reason": reason})
            continue
        kept[sampler, int(seed)] = {
            "run_id": run_id,
            "sampler": sampler,
            "seed": int(seed),
            "start": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
            "device": run.data.tags.get(DEVICE_TAG),
            **{f"params.{name}": value for name, value in params.items()},
        }
    table = pd.DataFrame(kept.values(), columns=None if kept else ["run_id", "sampler", "seed"]).set_index("run_id")
    columns = ["run_id", "sampler", "seed", "status", "reason"]
    return table.sort_values(["sampler", "seed"]), pd.DataFrame(left_out, columns=columns)


def _require_one_store(table: pd.DataFrame, sweep: str) -> None:
    stores = sorted(set(table["params.store"].dropna())) if "params.store" in table else []
    if len(stores) > 1:
        listed = " and ".join(stores)
        raise InputError(f"the runs of sweep {sweep!r} trained on different stores ({listed}) and cannot be compared")


def _read_curves(tracking_uri: str, table: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """Long table of every metric of every run, ordered by run, metric and step."""
    history = read_histories(tracking_uri, {run_id: list(runs[run_id].data.metrics) for run_id in table.index})
    ids, row = history["run_id"].cat.categories, history["run_id"].cat.codes.to_numpy()
    samplers = pd.Categorical(table["sampler"].reindex(ids))
    return pd.DataFrame(
        {
            "run_id": history["run_id"],
            "sampler": samplers.take(row),
            "seed": table["seed"].reindex(ids).to_numpy(dtype="int64")[row],
            "metric": history["metric"],
            "step": history["step"],
            "value": history["value"],
        }
    )


def _require_one_grid(curves: pd.DataFrame) -> None:
    headline = curves[curves["metric"] == HEADLINE]
    grids = {
        f"{sampler}, seed {seed}": tuple(sorted(steps))
        for (sampler, seed), steps in headline.groupby(["sampler", "seed"], observed=True)["step"]
    }
    (first, grid), *others = grids.items()
    for name, other in others:
        if other != grid:
            raise InputError(
                f"the runs ({first}) and ({name}) were validated at different iterations ({len(grid)} times up to "
                f"{grid[-1]}, {len(other)} times up to {other[-1]}) and cannot be compared"
            )
