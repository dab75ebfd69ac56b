"""The best model of a sweep, and the command that predicts with it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from isod.errors import InputError
from isod.tracking.run_reader import model_address
from isod.tracking.runs import Runs
from isod.vocabulary import HEADLINE


@dataclass(frozen=True)
class BestModel:
    """The run that ended with the highest mAP."""

    run_id: str
    name: str  # "UIS-seed0"
    value: float  # its mAP at the end

    @property
    def sentence(self) -> str:
        """Which it is, in words; one run, so luck is part of it."""
        return f"best model: {self.name}, {HEADLINE} {self.value:.3f} at the end"


def best_model(runs: Runs) -> BestModel:
    """Return the finished run with the highest mAP at its last validation."""
    curves = runs.curves[runs.curves["metric"] == HEADLINE]
    last = curves[curves["step"] == curves["step"].max()]
    best = last.loc[last["value"].idxmax()]
    found = runs.runs[(runs.runs["sampler"] == best["sampler"]) & (runs.runs["seed"] == best["seed"])]
    return BestModel(str(found.index[0]), f"{best['sampler']}-seed{best['seed']}", float(best["value"]))


def scoring_runs(runs: Runs) -> Runs:
    """Return the runs of samplers that score examples. Raises InputError if there is none."""
    scores = ~runs.runs["sampler"].isin(runs.scoreless)
    if not scores.any():
        raise InputError(f"no run of sweep {runs.sweep!r} scores examples: name a run with --run")
    return replace(runs, runs=runs.runs[scores], curves=runs.curves[~runs.curves["sampler"].isin(runs.scoreless)])


def model_folder(runs: Runs, best: BestModel) -> Path | None:
    """Return the folder of the model; None if it is not on this machine."""
    address = model_address(runs.store_of(best.run_id), best.run_id)
    return Path(address) if address is not None and Path(address).is_dir() else None


def predict_commands(runs: Runs, best: BestModel) -> list[str]:
    """Return the commands that predict with the model: one, or two where it has to be fetched first."""
    folder = model_folder(runs, best)
    if folder is not None:
        return [f"isod predict {shlex.quote(str(folder))} IMAGES --out predictions"]
    return [
        f"MLFLOW_TRACKING_URI={shlex.quote(runs.store_of(best.run_id))} mlflow artifacts download "
        f"--run-id {best.run_id} --artifact-path model --dst-path best",
        "isod predict best/model IMAGES --out predictions",
    ]
