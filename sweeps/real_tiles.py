"""Do samplers pay where most examples are empty: a drone's thermal images, cut in tiles; decided by rules fixed before.

    python sweeps/real_tiles.py --images FOLDER --stage 0          # two cores, half an hour; --resume resumes it
    python sweeps/real_tiles.py --store STORE --stage 1            # hours
    python sweeps/real_tiles.py --store STORE --samplers baseline CAP --first-seed 2 --seeds 3 --iterations 3000

FOLDER holds ``images/``, ``train.json`` and ``val.json`` (COCO). The script cuts each image into 4 × 4 tiles once, in
its own pixels; the preset is ``small``. docs/real-images.md has the rules by which each stage is judged.

Stages, each a sweep of its own: 0, how the thesis's samplers and the losses stand; 1, samplers that read the labels
alone; 2, the parts of CAP; 3, the decision, with seeds that nothing was chosen on; 5, whether what is saved holds when
the learning rate falls to 0 at the end. Stage 4 is another data set: ``sweeps/real_traffic.py``.

``…-object-loss`` and ``…-location-loss`` train with the other two ways to add up the loss of an image, where the preset
balances objects and background. ``…-short`` is a run of 23/30 of the iterations: under a cosine schedule its learning
rate is 0 from there on, and its result is that at this iteration. Later ones say nothing: no weight learns, but
BatchNorm's statistics follow what is drawn. ``RFS-then-uniform`` draws by labels until 0.6 of the run, then ever more
uniformly, from 0.85 uniformly; ``uniform-then-RFS`` reverses that.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isod.cli.sweep import coco_store, main
from isod.config.study import Study, under
from isod.sampling.samplers import SAMPLERS

TILES = (4, 4)  # columns, rows
LOSSES: dict[str, dict[str, object]] = {f"{loss}-loss": {"loss_normalisation": loss} for loss in ("object", "location")}
RFS = SAMPLERS["RFS"]
LIS_MAX = replace(SAMPLERS["LIS"], name="LIS-max", reduction="max")
OTHERS = [
    replace(RFS, name="RFS-then-uniform", floor_from=0.6, floor_until=0.85),
    replace(RFS, name="uniform-then-RFS", floor=1.0, floor_from=0.15, floor_until=0.4, floor_end=0.0),
    replace(SAMPLERS["bounded-error"], name="bounded-max", reduction="max"),
    LIS_MAX,
]
# In stage 3, with LIS-max. CAP-static is what stage 2 chose of CAP and its parts.
COMPARED = ("baseline", "uniform", "RFS", "empties", "CAP-static")
SHORT = 23 / 30  # of the iterations: 2300 of 3000
CAP_STATIC = SAMPLERS["CAP-static"]
OTHER_TRAINING = [
    *under(LOSSES, [*(SAMPLERS[name] for name in (*COMPARED, "LIS", "UIS", "CAP")), LIS_MAX]),
    # For stage 5: as short a run, on the validation grid of the others.
    *under(
        {"short": {"lr_decayed_at": SHORT}},
        [
            replace(CAP_STATIC, floor_from=SHORT * CAP_STATIC.floor_from, floor_until=SHORT * CAP_STATIC.floor_until),
            RFS,
        ],
    ),
]


@dataclass(frozen=True)
class Stage:
    """One sweep of the study: what it runs, and with which seeds."""

    samplers: tuple[str, ...]
    iterations: int
    seeds: int = 2
    first_seed: int = 0
    others: tuple[str, ...] = ()  # more options

    def as_options(self) -> list[str]:
        """Return the options of ``isod sweep`` for it."""
        words = ["--samplers", *self.samplers, "--iterations", str(self.iterations), "--validate-every", "100"]
        return [*words, "--seeds", str(self.seeds), "--first-seed", str(self.first_seed), *self.others]


STAGES = {
    "0": Stage(("baseline", "LIS", "UIS", "bounded-max", "baseline-object-loss"), 1500),
    "1": Stage(
        ("baseline", "RFS", "empties", "RFS-then-uniform", "uniform-then-RFS", "baseline-object-loss"), 3000
    ),
    "2": Stage(("baseline", "CAP", "CAP-labels", "CAP-static"), 3000),
    "3": Stage(
        tuple(
            f"{name}{loss}"
            for loss in ("", "-object-loss")
            for name in (*COMPARED, LIS_MAX.name)
        ),
        3000,
        seeds=5,
        first_seed=2,
    ),
    "5": Stage(
        ("baseline", "CAP-static-short", "RFS-short"),
        3000,
        seeds=5,
        first_seed=2,
        others=("--lr-schedule", "cosine"),
    ),
}  # fmt: skip
STUDY = Study(
    name="real_tiles",
    samplers=[SAMPLERS[name] for name in ("baseline", "LIS", "UIS", "RFS", "CAP")],
    extra=[
        *(SAMPLERS[name] for name in ("uniform", "IRFS", "empties", "CAP-labels", "CAP-static")),
        *OTHERS,
        *(sampler for sampler, _ in OTHER_TRAINING),
    ],
    training={sampler.name: setting for sampler, setting in OTHER_TRAINING},
    preset="small",
)


def tiles_store(images: Path, out: Path, preset: str) -> str:
    """Return the crop store of the images' tiles, which is made on first use and then kept in ``out``."""
    return coco_store(images, out / "tiles-store-{}x{}".format(*TILES), tiles=TILES)


def with_stage(arguments: Sequence[str]) -> list[str]:
    """Return the command line with the options of the stage in place of ``--stage N``; options after them win."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--stage", choices=STAGES)
    options, others = parser.parse_known_args(arguments)
    return [*(STAGES[options.stage].as_options() if options.stage else []), *others]


if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__, with_stage(sys.argv[1:]), store_from_images=tiles_store))
