"""The thesis's claim on images that nobody here made: highway cameras, seven classes, honest label errors.

    python sweeps/real_traffic.py                                  # two cores, hours: stop it, go on with --resume
    python sweeps/real_traffic.py --resume --samplers baseline LIS-RB UIS-RB LIS-IR LIS-RHO     # the others, same sweep
    python sweeps/real_traffic.py --resume --samplers baseline-cosine UIS-cosine --seeds 5      # a control, same sweep
    python sweeps/real_traffic.py --first-seed 3 --seeds 2         # seeds 3 and 4, on another machine
    python sweeps/real_traffic.py --store STORE --preset small     # any other set

Without ``--store`` the images are those of ../shared/data/traffic beside the repository (``images/``, ``train.json``,
``val.json``), cut to 256×144 once. Every sampler mirrors half of its crops, and nothing else is augmented.

Controls, run where ``--samplers`` names them: ``…-cosine`` and ``…-cosine-half`` train with a cosine schedule that has
come down to 0 at the end and at the half of the budget, since gains of importance sampling vanished elsewhere once the
learning rate was decayed; ``…-object-loss`` trains with the object-normalised loss (§6.3.1 of the thesis).
"""

import sys
from dataclasses import replace
from pathlib import Path

from isod.config import SAMPLERS
from isod.errors import InputError
from isod.study import Study, main

IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traffic"
SIZE = (256, 144)  # width, height: a half of the images
CONTROLS: dict[str, dict[str, object]] = {
    "cosine": {"lr_schedule": "cosine"},
    "cosine-half": {"lr_schedule": "cosine", "lr_decayed_at": 0.5},
    "object-loss": {"loss_normalisation": "object"},
}
CONTROLLED = ("baseline", "LIS", "UIS", "UIS-IR")


def traffic_store(out: Path) -> str:
    """The crop store of the images, made on first use and then kept in ``out``."""
    from isod.data.coco import CocoReader
    from isod.data.crops import PrepareSettings
    from isod.orchestration.prepare import prepare

    if not IMAGES.is_dir():
        raise InputError(
            f"no images at {IMAGES}: prepare some with `isod prepare coco` and name the store with --store"
        )
    reader = CocoReader(*((IMAGES / "images", IMAGES / f"{split}.json") for split in ("train", "val")))
    report = prepare(reader, out / f"traffic-store-{SIZE[0]}x{SIZE[1]}", PrepareSettings(resize=SIZE))
    print(report)
    return report.store


STUDY = Study(
    name="real_traffic",
    samplers=[SAMPLERS[name] for name in CONTROLLED],
    extra=[replace(SAMPLERS[base], name=f"{base}-{control}") for control in CONTROLS for base in CONTROLLED],
    training={f"{base}-{control}": setting for control, setting in CONTROLS.items() for base in CONTROLLED},
    store=traffic_store,
    preset="small",
)

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__))
