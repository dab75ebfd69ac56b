"""Importance sampling: heuristics → reductions → importance table → strategies.

The table needs numpy and numba alone. ``sample_scores`` and ``ImportanceBatchSampler`` need torch too. Names are
imported on first use, so that the table starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isod.sampling.catalogue import HEURISTICS, HISTORIES, PRIORS, REDUCTIONS, SELECTIONS, STRATEGIES
    from isod.sampling.loader import ImportanceBatchSampler, ImportanceSampler, lag_for
    from isod.sampling.priors import Labels
    from isod.sampling.samplers import SAMPLERS, SamplerConfig
    from isod.sampling.schedule import DrawSchedule
    from isod.sampling.scores.reductions import sample_scores
    from isod.sampling.table import Draw, ImportanceTable

_HOME = {
    "Draw": "isod.sampling.table",
    "DrawSchedule": "isod.sampling.schedule",
    "HEURISTICS": "isod.sampling.catalogue",
    "HISTORIES": "isod.sampling.catalogue",
    "ImportanceBatchSampler": "isod.sampling.loader",
    "ImportanceSampler": "isod.sampling.loader",
    "ImportanceTable": "isod.sampling.table",
    "Labels": "isod.sampling.priors",
    "PRIORS": "isod.sampling.catalogue",
    "REDUCTIONS": "isod.sampling.catalogue",
    "SAMPLERS": "isod.sampling.samplers",
    "SELECTIONS": "isod.sampling.catalogue",
    "STRATEGIES": "isod.sampling.catalogue",
    "SamplerConfig": "isod.sampling.samplers",
    "lag_for": "isod.sampling.loader",
    "sample_scores": "isod.sampling.scores.reductions",
}

__all__ = [
    "HEURISTICS",
    "HISTORIES",
    "PRIORS",
    "REDUCTIONS",
    "SAMPLERS",
    "SELECTIONS",
    "STRATEGIES",
    "Draw",
    "DrawSchedule",
    "ImportanceBatchSampler",
    "ImportanceSampler",
    "ImportanceTable",
    "Labels",
    "SamplerConfig",
    "lag_for",
    "sample_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
