"""Settings that no run could train under are refused as they are made, with the rule and the value."""

import math

import pytest

from isod.config.presets import PRESETS
from isod.config.settings import ResourceConfig, TrainingConfig
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS, SamplerConfig

REFUSED = [
    (TrainingConfig, {"betas": (0.9, 1.5)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.5\)"),
    (TrainingConfig, {"betas": (0.9, math.nan)}, "betas must be two numbers"),
    (TrainingConfig, {"betas": (0.9,)}, "betas must be two numbers"),
    (TrainingConfig, {"eps": math.inf}, "eps must be > 0 and finite, got inf"),
    (TrainingConfig, {"class_weight": 0.0, "box_weight": 0.0}, "loss weights must be finite and ≥ 0, and not both 0"),
    (TrainingConfig, {"box_weight": math.nan}, "loss weights must be finite"),
    (SamplerConfig, {"heuristic": "los"}, "sampler heuristic must be one of loss, .*, got 'los'"),
    (SamplerConfig, {"reduction": "avg"}, "sampler reduction must be one of mean, .*, got 'avg'"),
    (SamplerConfig, {"strategy": None}, "sampler strategy must be one of sequential, .*, got None"),
    (SamplerConfig, {"history": "all"}, "sampler history must be one of latest, .*, got 'all'"),
    (ResourceConfig, {"gpus_per_trial": 1.5}, r"gpus_per_trial must be in \[0, 1\], or a whole number, got 1.5"),
    (ResourceConfig, {"gpus_per_trial": -1}, "gpus_per_trial must be"),
    (ResourceConfig, {"gpus_per_trial": math.inf}, "gpus_per_trial must be"),
]


@pytest.mark.parametrize(("settings", "values", "rule"), REFUSED)
def test_what_no_run_could_train_under_is_refused(settings, values, rule):
    name = {"name": "mine"} if settings is SamplerConfig else {}
    with pytest.raises(InputError, match=rule):
        settings(**name, **values)


def test_what_ships_is_not():
    assert len(SAMPLERS) > 30
    assert set(PRESETS) == {"demo", "small", "medium", "thesis"}
    for gpus in (0, 0.25, 1, 2):
        ResourceConfig(gpus_per_trial=gpus)
