"""Importance sampling: heuristics → reductions → importance table → strategies. Imports neither Ray nor MLflow.

Names load on first use, so that the table, which needs no torch, starts without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isod.config import SAMPLERS, SamplerConfig
    from isod.sampling.heuristics import HEURISTICS
    from isod.sampling.loader import ImportanceBatchSampler, prefetched
    from isod.sampling.reductions import REDUCTIONS, sample_scores
    from isod.sampling.schedule import DrawSchedule
    from isod.sampling.strategies import STRATEGIES
    from isod.sampling.table import HISTORIES, Draw, ImportanceTable, table_for

_HOME = {
    "SAMPLERS": "isod.config",
    "SamplerConfig": "isod.config",
    "HEURISTICS": "isod.sampling.heuristics",
    "REDUCTIONS": "isod.sampling.reductions",
    "sample_scores": "isod.sampling.reductions",
    "Draw": "isod.sampling.table",
    "ImportanceTable": "isod.sampling.table",
    "table_for": "isod.sampling.table",
    "DrawSchedule": "isod.sampling.schedule",
    "ImportanceBatchSampler": "isod.sampling.loader",
    "prefetched": "isod.sampling.loader",
    "STRATEGIES": "isod.sampling.strategies",
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
