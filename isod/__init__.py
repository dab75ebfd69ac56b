"""Importance sampling for object detectors: draw the frames that still teach the model.

Names load on first use: ``import isod`` imports nothing heavy, and the sampling core works without Ray, MLflow or the
rest of isod's stack installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isod.config.presets import PRESETS
    from isod.config.settings import DetectorConfig, RunConfig, TrainingConfig
    from isod.data.prepare.job import prepare
    from isod.data.readers import READERS
    from isod.data.store.split import CropStore
    from isod.detector.model import DETECTORS, DetectorModel
    from isod.detector.saved import load_model, save_model
    from isod.errors import InputError
    from isod.evaluation.evaluator import DetectionEvaluator
    from isod.objects import Objects
    from isod.outcome import Outcome
    from isod.results.report.page import write_report
    from isod.results.statistics.speedup_table import speedup_table
    from isod.sampling.loader import ImportanceBatchSampler, ImportanceSampler, lag_for
    from isod.sampling.samplers import SAMPLERS, SamplerConfig
    from isod.sampling.schedule import DrawSchedule
    from isod.sampling.table import Draw, ImportanceTable
    from isod.tracking.sweep_reader import load_runs
    from isod.training.run import Reporter, Run

    __version__: str

_HOME = {
    "CropStore": "isod.data.store.split",
    "DETECTORS": "isod.detector.model",
    "DetectionEvaluator": "isod.evaluation.evaluator",
    "DetectorConfig": "isod.config.settings",
    "DetectorModel": "isod.detector.model",
    "Draw": "isod.sampling.table",
    "DrawSchedule": "isod.sampling.schedule",
    "ImportanceBatchSampler": "isod.sampling.loader",
    "ImportanceSampler": "isod.sampling.loader",
    "ImportanceTable": "isod.sampling.table",
    "InputError": "isod.errors",
    "Objects": "isod.objects",
    "Outcome": "isod.outcome",
    "PRESETS": "isod.config.presets",
    "READERS": "isod.data.readers",
    "Reporter": "isod.training.run",
    "Run": "isod.training.run",
    "RunConfig": "isod.config.settings",
    "SAMPLERS": "isod.sampling.samplers",
    "SamplerConfig": "isod.sampling.samplers",
    "TrainingConfig": "isod.config.settings",
    "load_model": "isod.detector.saved",
    "load_runs": "isod.tracking.sweep_reader",
    "lag_for": "isod.sampling.loader",
    "prepare": "isod.data.prepare.job",
    "save_model": "isod.detector.saved",
    "speedup_table": "isod.results.statistics.speedup_table",
    "write_report": "isod.results.report.page",
}

__all__ = [
    "DETECTORS",
    "PRESETS",
    "READERS",
    "SAMPLERS",
    "CropStore",
    "DetectionEvaluator",
    "DetectorConfig",
    "DetectorModel",
    "Draw",
    "DrawSchedule",
    "ImportanceBatchSampler",
    "ImportanceSampler",
    "ImportanceTable",
    "InputError",
    "Objects",
    "Outcome",
    "Reporter",
    "Run",
    "RunConfig",
    "SamplerConfig",
    "TrainingConfig",
    "lag_for",
    "load_model",
    "load_runs",
    "prepare",
    "save_model",
    "speedup_table",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("isod")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        from isod.extras import missing

        if text := missing(f"isod.{name}", error):
            raise ModuleNotFoundError(text, name=error.name) from None
        raise


def __dir__() -> list[str]:
    return [*sorted(__all__), "__version__"]
