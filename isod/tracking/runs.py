"""The runs of one sweep as pandas tables, however they were read: curves, settings, what is comparable, joining."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from isod.config.record import DEFAULTS, current
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS
from isod.vocabulary import BASELINE, COMMIT_TAG, DEMO_TAG, HEADLINE, MACHINE_TAG, metric_key

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
    # index run_id; sampler, seed (int), start (UTC), device where it was recorded, tracking_uri where sweeps of several
    # stores were joined, and every parameter as text under params.<name>
    runs: pd.DataFrame
    curves: pd.DataFrame  # sampler, seed, metric, step, value; one row per logged value
    left_out: pd.DataFrame  # run_id, sampler, seed, status, reason: runs of the sweep that do not enter

    def store_of(self, run_id: str) -> str:
        """Return the tracking URI of the MLflow store that has a run."""
        return str(self.runs.at[run_id, "tracking_uri"] if "tracking_uri" in self.runs else self.tracking_uri)

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
        """The strategy of each sampler that recorded it, by name."""
        return self._setting("sampler.strategy")

    @property
    def scoreless(self) -> set[str]:
        """The baseline, and other samplers whose recorded heuristic is None."""
        return {BASELINE, *(sampler for sampler, name in self._setting("sampler.heuristic").items() if name == "None")}

    @property
    def with_holdout(self) -> list[str]:
        """Samplers that need a hold-out model, of those that recorded it."""
        return [sampler for sampler, held in self._setting("sampler.holdout").items() if held == "True"]

    def _setting(self, name: str) -> dict[str, str]:
        """Return a setting of each sampler as text, by the sampler's name, in the order of names."""
        column = f"params.{name}"
        return dict(self.runs.groupby("sampler")[column].first()) if column in self.runs else {}

    @property
    def devices(self) -> dict[str, int]:
        """The number of runs that trained on each recorded device, the most used one first."""
        counts = self.runs["device"].value_counts() if "device" in self.runs else pd.Series(dtype=int)
        return {str(device): int(count) for device, count in counts.items()}

    @property
    def names(self) -> list[str]:
        """Names of classes and samplers, which figures write."""
        return [*self.class_names, *self.samplers]

    @property
    def is_demo(self) -> bool:
        """Whether the runs trained on demo data; every result must then say so."""
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
        """Return a metric, [iteration × seed]; no columns if the sampler never logged it."""
        rows = self.curves.iloc[self._positions.get((metric, sampler), [])]
        return rows.pivot(index="step", columns="seed", values="value").sort_index()

    def mean_curve(self, metric: str, sampler: str) -> pd.Series:
        """Return the mean over seeds, by iteration; NaN where a seed has no value."""
        return self.curve(metric, sampler).mean(axis=1, skipna=False)

    @property
    def grid(self) -> pd.Index:
        """Iterations at which every run was validated, increasing."""
        rows = self.curves.iloc[self._rows[HEADLINE]]
        return pd.Index(np.sort(rows["step"].unique()), name="step")

    def final(self, metric: str, sampler: str) -> pd.Series:
        """Return a metric at the last validation, by seed; NaN where it was not logged there."""
        return self.curve(metric, sampler).reindex([self.grid[-1]]).iloc[0]

    def last(self, metric: str) -> float:
        """Return the last logged value of a metric that all runs share, such as a ground-truth count; NaN if absent."""
        rows = self.curves.iloc[self._rows.get(metric, [])]
        return float(rows["value"].iloc[int(rows["step"].argmax())]) if len(rows) else float("nan")

    def objects(self, stratum: int, class_name: str | None = None) -> float:
        """Return the number of objects in a stratum, of a class or of all; NaN if none was logged.

        Of more than ``MAX_CLASSES`` the total alone counts those whose own metrics are not in MLflow.
        """
        total = self.last(metric_key("GT", stratum, class_name))
        if class_name is not None or not math.isnan(total):
            return total
        counts = [self.last(metric_key("GT", stratum, name)) for name in self.class_names]
        known = [count for count in counts if not math.isnan(count)]
        return sum(known) if known else math.nan


def of_the_same_seeds(baseline: BySeed, other: BySeed) -> tuple[BySeed, BySeed, int]:
    """Return both over the seeds that both have, and how many these are; unchanged, and 0, if they share none.

    Args:
        baseline, other: curves [iteration × seed], or one value by seed.
    """
    seeds = baseline.keys().intersection(other.keys())
    return (baseline[seeds], other[seeds], len(seeds)) if len(seeds) else (baseline, other, 0)


def joined_runs(parts: Sequence[Runs]) -> Runs:
    """Return several sweeps as one: seeds or samplers that ran on other machines, or are in other MLflow stores.

    The result has the name of the first, and machines and commits of all. The crop store may be in another place on
    each machine: stores of the same name and ground truth are the same.

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
    tables = [part.runs for part in parts]
    if len({part.tracking_uri for part in parts}) > 1:
        tables = [part.runs.assign(tracking_uri=[*map(part.store_of, part.runs.index)]) for part in parts]
    table = stores_by_name(pd.concat(tables))
    require_one_store(table, first.sweep)
    twice = table[table.duplicated(["sampler", "seed"])]
    if len(twice):
        sampler, seed = twice.iloc[0][["sampler", "seed"]]
        raise InputError(f"sampler {sampler} with seed {seed} is in two of the sweeps: leave one of them out")
    _require_same_settings(table)
    curves = pd.concat([part.curves.astype({"sampler": object, "metric": object}) for part in parts], ignore_index=True)
    require_one_grid(curves)
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


def name_of_store(store: str) -> str:
    """Return a store's name without its place: the last part of a path or URI, without query."""
    return PurePosixPath(urlsplit(store).path if "://" in store else store).name


def stores_by_name(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of runs with each store's name in place of its path, if it has stores."""
    if "params.store" not in table:
        return table
    return table.assign(**{"params.store": table["params.store"].map(name_of_store, na_action="ignore")})


def _require_same_data(first: Runs, part: Runs) -> None:
    """Compare what every run logs of the validation set, and whether it is demo data."""
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
    """Require equal settings but the seed of the runs of a sampler, and equal shared settings of all runs.

    A setting that an older version did not record counts as its default, which is what that version did.
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


def require_one_store(table: pd.DataFrame, sweep: str) -> None:
    stores = sorted(set(table["params.store"].dropna())) if "params.store" in table else []
    if len(stores) > 1:
        listed = " and ".join(stores)
        raise InputError(f"the runs of sweep {sweep!r} trained on different stores ({listed}) and cannot be compared")


def require_one_grid(curves: pd.DataFrame) -> None:
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
