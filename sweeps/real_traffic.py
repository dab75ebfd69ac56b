"""The thesis's claim on real images: highway cameras, seven classes, real label errors.

    python sweeps/real_traffic.py --images FOLDER                  # two cores, hours; --resume resumes it
    python sweeps/real_traffic.py --images FOLDER --preset medium  # a GPU, minutes a run, the images in full size
    python sweeps/real_traffic.py --images FOLDER --resume --samplers baseline LIS-RB UIS-RB LIS-IR LIS-RHO    # others
    python sweeps/real_traffic.py --images FOLDER --resume --samplers baseline-cosine UIS-cosine --seeds 5     # control
    python sweeps/real_traffic.py --images FOLDER --first-seed 3 --seeds 2     # seeds 3 and 4, on another machine
    python sweeps/real_traffic.py --store STORE --preset small     # any other set

FOLDER holds ``images/``, ``train.json`` and ``val.json`` (COCO). The script halves the images to 256×144 once, or keeps
their size at the preset ``medium``. Every sampler mirrors half of its crops; there is no other augmentation.

Some samplers are controls and run where ``--samplers`` names them. ``…-cosine`` and ``…-cosine-half`` train with a
cosine schedule that reaches 0 at the end and at half of the budget: elsewhere, gains of importance sampling vanished
once the learning rate was decayed. ``…-object-loss`` trains with the object-normalised loss (§6.3.1 of the thesis).

So do variants of LIS and UIS. ``-max``, ``-sum`` and ``-rms`` reduce object scores otherwise than by the mean (§4.2.4),
which makes frames of thirteen objects of one road alike. ``-box-only`` is the opposite of what LIS-IR and UIS-IR leave
out. ``-lag-0`` and ``-lag-64`` have another lag between a score and the first draw that uses it. Choose among them, and
any sampler that isod knows, on some seeds, and report the choice on others. ``uniform`` is a control too: it shows what
it costs to draw with replacement and by no score, where the baseline draws every frame once per epoch.
"""

import sys
from dataclasses import replace
from pathlib import Path

from isod.cli.sweep import coco_store, main
from isod.config.study import Study, under
from isod.sampling.samplers import SAMPLERS

SIZES = {"medium": (512, 288)}  # preset → width, height of the crops, here those of the images
HALF = (256, 144)  # half of them, at any other preset
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


def traffic_store(images: Path, out: Path, preset: str) -> str:
    """Return the crop store of the images at the preset's size, which is made on first use and then kept in ``out``."""
    width, height = size = SIZES.get(preset, HALF)
    return coco_store(images, out / f"traffic-store-{width}x{height}", resize=size)


STUDY = Study(
    name="real_traffic",
    samplers=CONTROLLED,
    extra=[*REDUCED, *BOX_ONLY, *(sampler for sampler, _ in OTHER_TRAINING)],
    training={sampler.name: setting for sampler, setting in OTHER_TRAINING},
    preset="small",
)

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__, store_from_images=traffic_store))
