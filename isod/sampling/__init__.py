"""Importance sampling: heuristics → reductions → importance table → strategies. Imports neither Ray nor MLflow.

Names load on first use, so that the table, which needs no torch, starts without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isod.sampling.catalogue import STRATEGIES
    from isod.sampling.loader import ImportanceBatchSampler, prefetched
    from isod.sampling.samplers import SAMPLERS, SamplerConfig
    from isod.sampling.schedule import DrawSchedule
    from isod.sampling.scores.heuristics import HEURISTICS
    from isod.sampling.scores.reductions import REDUCTIONS, sample_scores
    from isod.sampling.table import HISTORIES, Draw, ImportanceTable, table_for

_HOME = {
    "SAMPLERS": "isod.sampling.samplers",
    "SamplerConfig": "isod.sampling.samplers",
    "HEURISTICS": "isod.sampling.scores.heuristics",
    "REDUCTIONS": "isod.sampling.scores.reductions",
    "sample_scores": "isod.sampling.scores.reductions",
    "Draw": "isod.sampling.table",
    "ImportanceTable": "isod.sampling.table",
    "table_for": "isod.sampling.table",
    "DrawSchedule": "isod.sampling.schedule",
    "ImportanceBatchSampler": "isod.sampling.loader",
    "prefetched": "isod.sampling.loader",
    "STRATEGIES": "isod.sampling.catalogue",
    "HISTORIES": "isod.sampling.table",
}

__all__ = [
    "HEURISTICS",
    "HISTORIES",
    "REDUCTIONS",
    "SAMPLERS",
    "STRATEGIES",
    "Draw",
    "DrawSchedule",
    "ImportanceBatchSampler",
    "ImportanceTable",
    "SamplerConfig",
    "prefetched",
    "sample_scores",
    "table_for",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
