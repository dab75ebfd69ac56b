"""The thesis's claim on images that nobody here made: highway cameras, seven classes, honest label errors.

    python sweeps/real_traffic.py                                  # two cores, hours: stop it, go on with --resume
    python sweeps/real_traffic.py --preset medium                  # a GPU, minutes a run, the images in full size
    python sweeps/real_traffic.py --resume --samplers baseline LIS-RB UIS-RB LIS-IR LIS-RHO     # the others, same sweep
    python sweeps/real_traffic.py --resume --samplers baseline-cosine UIS-cosine --seeds 5      # a control, same sweep
    python sweeps/real_traffic.py --first-seed 3 --seeds 2         # seeds 3 and 4, on another machine
    python sweeps/real_traffic.py --store STORE --preset small     # any other set

Without ``--store`` the images are those of ../shared/data/traffic beside the repository (``images/``, ``train.json``,
``val.json``), halved to 256×144 once, or whole at the preset ``medium``. Every sampler mirrors half of its crops, and
nothing else is augmented.

Controls, run where ``--samplers`` names them: ``…-cosine`` and ``…-cosine-half`` train with a cosine schedule that has
come down to 0 at the end and at the half of the budget, since gains of importance sampling vanished elsewhere once the
learning rate was decayed; ``…-object-loss`` trains with the object-normalised loss (§6.3.1 of the thesis).

Likewise LIS and UIS with ``-max``, ``-sum`` or ``-rms``, another reduction than the mean (§4.2.4), which makes frames
of thirteen objects of one road alike, with ``-box-only``, the opposite of what LIS-IR and UIS-IR leave out, or with
``-lag-0`` or ``-lag-64``, another lag between a score and the first draw that sees it: choose among them, and any
sampler that isod knows, on some seeds, and report the choice on others. Among these ``uniform`` is a control too: what
it costs to draw with replacement, by no score at all, where the baseline sees every frame once an epoch.
"""

import sys
from dataclasses import replace
from pathlib import Path

from isod.cli.sweep import Study, main, under
from isod.sampling.samplers import SAMPLERS

IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traffic"
SIZES = {"medium": (512, 288)}  # preset → width, height of the crops: those of the images at this one,
HALF = (256, 144)  # and a half of them at any other
CONTROLS: dict[str, dict[str, object]] = {
    "cosine": {"lr_schedule": "cosine"},
    "cosine-half": {"lr_schedule": "cosine", "lr_decayed_at": 0.5},
    "object-loss": {"loss_normalisation": "object"},
}
CONTROLLED = [SAMPLERS[name] for name in ("baseline", "LIS", "UIS", "UIS-IR")]
LAGS: dict[str, dict[str, object]] = {f"lag-{lag}": {"lag": lag} for lag in (0, 64)}
CHOSEN_FROM = [SAMPLERS[name] for name in ("LIS", "UIS")]
REDUCED = [
    replace(base, name=f"{base.name}-{reduction}", reduction=reduction)
    for base in CHOSEN_FROM
    for reduction in ("max", "sum", "rms")
]
BOX_ONLY = [replace(base, name=f"{base.name}-box-only", class_weight=0.0) for base in CHOSEN_FROM]
OTHER_TRAINING = [*under(CONTROLS, CONTROLLED), *under(LAGS, CHOSEN_FROM)]


def traffic_store(out: Path, preset: str) -> str:
    """The crop store of the images at the preset's size, made on first use and then kept in ``out``."""
    from isod.data.prepare.job import prepare
    from isod.data.prepare.settings import PrepareSettings
    from isod.data.readers.coco import CocoReader

    reader = CocoReader(*((IMAGES / "images", IMAGES / f"{split}.json") for split in ("train", "val")))
    width, height = size = SIZES.get(preset, HALF)
    report = prepare(reader, out / f"traffic-store-{width}x{height}", PrepareSettings(resize=size))
    print(report)
    return report.store


STUDY = Study(
    name="real_traffic",
    samplers=CONTROLLED,
    extra=[*REDUCED, *BOX_ONLY, *(sampler for sampler, _ in OTHER_TRAINING)],
    training={sampler.name: setting for sampler, setting in OTHER_TRAINING},
    store=traffic_store,
    images=IMAGES,
    preset="small",
)

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__))
