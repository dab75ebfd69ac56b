"""One sweep of one experiment from MLflow: its finished runs and their curves, as pandas tables.

A sweep is a parent run tagged ``isod.sweep``; its trials are child runs with parameters ``sampler``, ``seed`` and
``store`` and metrics at step = iteration. Nothing but MLflow is read, from a database file or from a server.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from isod.errors import InputError
from isod.tracking.client import NEWEST, explained, open_for_reading, search
from isod.tracking.histories import read_histories
from isod.tracking.metric_names import class_names, metric_name
from isod.tracking.runs import Runs, require_one_grid, require_one_store
from isod.vocabulary import COMMIT_TAG, DEVICE_TAG, HEADLINE, PARENT_TAG, SEARCH_TAG, SWEEP_TAG


def load_runs(tracking_uri: str, experiment: str | None = None, sweep: str | None = None) -> Runs:
    """Read one sweep from MLflow.

    Only FINISHED runs enter; failed, killed and running ones are listed in ``left_out``, and so is a run that was
    repeated later with the same sampler and seed.

    Args:
        tracking_uri: as MLflow takes it, e.g. ``sqlite:////path/mlflow.db`` or ``http://host:5000``.
        experiment: its name; None for that of ``sweep`` or, without one, of the sweep that was started last.
        sweep: run id of the parent to read; None for the one that was started last.
    Raises:
        InputError: store unreadable or unreachable, no such experiment or sweep, no finished run, or runs that cannot
            be compared: different stores, or validations at different iterations.
    """
    client = open_for_reading(tracking_uri)
    with explained(tracking_uri):
        if experiment is None:
            experiment = last_experiment(client, tracking_uri) if sweep is None else _experiment_of(client, sweep)
        found = client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            names = ", ".join(sorted(e.name for e in client.search_experiments())) or "none"
            raise InputError(f"{tracking_uri} has no experiment {experiment!r}; it has: {names}")
        every_run = search(client, found.experiment_id)
        parent = _choose_sweep(every_run, experiment, sweep)
        children = [r for r in every_run if r.data.tags.get(PARENT_TAG) == parent.info.run_id]
        table, left_out = _tabulate(children)
        name = parent.data.tags.get(SWEEP_TAG, parent.info.run_name or parent.info.run_id)
        if table.empty:
            states = Counter(left_out["status"].str.lower())
            listed = ", ".join(f"{n} {status}" for status, n in states.items()) or "none started"
            raise InputError(f"sweep {name!r} of experiment {experiment!r} has no finished run ({listed})")
        require_one_store(table, name)
        curves = _read_curves(tracking_uri, table, {r.info.run_id: r for r in children})
    if classes := class_names(parent.data.tags):
        curves["metric"] = curves["metric"].cat.rename_categories(lambda key: metric_name(key, classes))
    without = table.index[~table.index.isin(curves.loc[curves["metric"] == HEADLINE, "run_id"])]
    if len(without):
        reasons = table.loc[without, ["sampler", "seed"]].assign(status="FINISHED", reason=f"logged no {HEADLINE}")
        left_out = pd.concat([left_out, reasons.rename_axis("run_id").reset_index()], ignore_index=True)
        table, curves = table.drop(without), curves[~curves["run_id"].isin(without)]
        if table.empty:
            raise InputError(f"no finished run of sweep {name!r} logged {HEADLINE}, so there is nothing to compare")
    require_one_grid(curves)
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


def last_experiment(client: MlflowClient, tracking_uri: str) -> str:
    """Return the name of the experiment of the sweep that was started last. Raises InputError if there is none."""
    names = {item.experiment_id: item.name for item in client.search_experiments()}
    last = client.search_runs(list(names), f"tags.`{SWEEP_TAG}` != ''", max_results=1, order_by=NEWEST) if names else []
    if not last:
        wanted = f"tags.`{SEARCH_TAG}` != ''"
        searches = client.search_runs(list(names), wanted, max_results=1, order_by=NEWEST) if names else []
        if searches:
            raise _no_comparison(searches[0])
        raise InputError(f"{tracking_uri} has no sweep yet: run `isod sweep`, or name another --tracking-uri")
    return names[last[0].info.experiment_id]


def _experiment_of(client: MlflowClient, sweep: str) -> str:
    """Return the name of the experiment of a sweep. Raises InputError if there is no such run."""
    try:
        run = client.get_run(sweep)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise InputError(f"there is no sweep {sweep!r} in this MLflow store: give the run id of its parent") from None
    return str(client.get_experiment(run.info.experiment_id).name)


def _no_comparison(search: Run) -> InputError:
    """The error for a search in place of a sweep."""
    return InputError(
        f"{search.data.tags[SEARCH_TAG]!r} ({search.info.run_id}) is a search, whose runs had different settings and "
        "could be stopped by its scheduler, so they are not compared: run `isod sweep` with the best.toml that "
        "`isod search` wrote"
    )


def _choose_sweep(runs: list[Run], experiment: str, sweep: str | None) -> Run:
    parents = [r for r in runs if SWEEP_TAG in r.data.tags and PARENT_TAG not in r.data.tags]
    searches = [r for r in runs if SEARCH_TAG in r.data.tags]
    if chosen := [r for r in searches if r.info.run_id == sweep or not (sweep or parents)]:
        raise _no_comparison(chosen[0])
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
    """Return finished runs, and runs left out with the reason. Of a pair the first stays, which is the latest."""
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


def _read_curves(tracking_uri: str, table: pd.DataFrame, runs: dict[str, Run]) -> pd.DataFrame:
    """Return a long table of every metric of every run, ordered by run, metric and step."""
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
