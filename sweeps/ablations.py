"""Ablations of LIS and UIS: one of their settings changed at a time.

    python sweeps/ablations.py                                     # demo data, this machine: 32 samplers × 3 seeds
    python sweeps/ablations.py --samplers baseline UIS UIS-max UIS-rms --seeds 5
    python sweeps/ablations.py --store STORE --preset small        # your data, two cores: days

The settings are the reduction of object scores to one score (§4.2.4), the lag between a score and the first draw that
uses it, a uniform floor λ, the weight of the box part against the class part (§4.3), and the object-normalised loss
that §6.3.1 of the thesis asks about. A run costs as much as one of the thesis's grid. The thesis reports no figures for
these, only that the choice of reduction changed the outcome much.
"""

import sys
from dataclasses import replace

from isod.cli.sweep import main
from isod.config.study import Study, under
from isod.sampling.samplers import SAMPLERS, SamplerConfig

BASES = (SAMPLERS["LIS"], SAMPLERS["UIS"])
REDUCTIONS = {"sum": "sum", "max": "max", "rms": "rms", "area": "area_mean", "masked": "masked_mean"}
LAGS = (0, 16, 64)  # steps; the presets have 2, 4 and 10
FLOORS = (0.1, 0.5)
TASK_WEIGHTS = {"half-box": (1.0, 0.5), "double-box": (1.0, 2.0), "box-only": (0.0, 1.0)}  # w_cls, w_reg


def variants(base: SamplerConfig) -> list[SamplerConfig]:
    """Return the sampler with each of its settings changed, one at a time."""
    return [
        *(replace(base, name=f"{base.name}-{name}", reduction=key) for name, key in REDUCTIONS.items()),
        *(replace(base, name=f"{base.name}-floor-{floor}", floor=floor) for floor in FLOORS),
        *(
            replace(base, name=f"{base.name}-{name}", class_weight=class_weight, box_weight=box_weight)
            for name, (class_weight, box_weight) in TASK_WEIGHTS.items()
        ),
    ]


BASELINE = SAMPLERS["baseline"]
LAG_SETTINGS: dict[str, dict[str, object]] = {f"lag-{lag}": {"lag": lag} for lag in LAGS}
OBJECT_LOSS: dict[str, dict[str, object]] = {"object-loss": {"loss_normalisation": "object"}}
OTHER_TRAINING = [*under(LAG_SETTINGS, BASES), *under(OBJECT_LOSS, (BASELINE, *BASES))]
STUDY = Study(
    name="ablations",
    samplers=[
        BASELINE,
        *BASES,
        *(variant for base in BASES for variant in variants(base)),
        *(sampler for sampler, _ in OTHER_TRAINING),
    ],
    training={sampler.name: setting for sampler, setting in OTHER_TRAINING},
)

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__))
