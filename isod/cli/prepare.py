"""The options of ``isod prepare``, and the reader and settings they ask for."""

from __future__ import annotations

import argparse
from typing import Any

from isod.data.prepare.region import FAR, Region
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import Reader
from isod.data.readers.coco import CocoReader
from isod.data.readers.zod import ANONYMIZATIONS, VERSIONS, ZodReader


def add_prepare_parser(commands: Any) -> argparse.ArgumentParser:
    """Add ``prepare zod ROOT STORE`` and ``prepare coco STORE --train … --val …`` to the subcommands; the parser."""
    prepare = commands.add_parser("prepare", help="cut a dataset's frames into a crop store")
    kinds = prepare.add_subparsers(dest="kind", required=True, metavar="zod|coco")

    zod = kinds.add_parser("zod", help="ZOD Frames, or `isod demo`'s stand-in")
    zod.add_argument("root", metavar="ROOT")
    zod.add_argument("store", metavar="STORE", help="a new folder or object-storage address")
    zod.add_argument("--version", default="full", metavar="NAME", help=f"one of {', '.join(VERSIONS)} (default full)")
    zod.add_argument("--anonymization", default="blur", metavar="NAME",
                     help=f"one of {', '.join(ANONYMIZATIONS)} (default blur)")  # fmt: skip

    coco = kinds.add_parser("coco", help="images and COCO json")
    coco.add_argument("store", metavar="STORE", help="a new folder or object-storage address")
    for split in ("train", "val"):
        coco.add_argument(f"--{split}", nargs=2, required=True, metavar=("IMAGES", "JSON"))

    defaults = PrepareSettings()
    for kind in (zod, coco):
        kind.add_argument("--roi", nargs=4, type=int, metavar=("X0", "Y0", "X1", "Y1"),
                          help="region of interest, pixels (default: zod far region, coco whole image)")  # fmt: skip
        kind.add_argument("--tiles", nargs=2, type=int, metavar=("COLUMNS", "ROWS"),
                          help="cut the region into this many crops, each an example of its own")  # fmt: skip
        kind.add_argument("--resize", nargs=2, type=int, metavar=("W", "H"),
                          help="of the region, or of each tile, pixels")  # fmt: skip
        kind.add_argument("--min-visible", type=float, default=defaults.min_visible, metavar="X",
                          help="share of a box that must lie in the crop (default %(default)s)")  # fmt: skip
        kind.add_argument("--jpeg-quality", type=int, default=defaults.jpeg_quality, metavar="N",
                          help="of crops that are encoded again (default %(default)s)")  # fmt: skip
        kind.add_argument(
            "--address", metavar="ADDR", help="of a Ray cluster that shares the work (default: this machine's cores)"
        )
    prepare.set_defaults(run=_prepare)
    return prepare


def _prepare(options: argparse.Namespace) -> None:
    from isod.data.prepare.job import prepare

    map_chunks = None
    if options.address is not None:
        from isod.orchestration.prepare import on_cluster

        map_chunks = on_cluster(options.address)
    print(prepare(reader_from(options), options.store, settings_from(options), map_chunks=map_chunks))


def reader_from(options: argparse.Namespace) -> Reader:
    """The dataset that the options name. Raises InputError if it is not one."""
    if options.kind == "zod":
        return ZodReader(options.root, options.version, options.anonymization)
    return CocoReader(train=tuple(options.train), val=tuple(options.val))


def settings_from(options: argparse.Namespace) -> PrepareSettings:
    """The settings that the options ask for. Raises InputError for impossible ones."""
    default = FAR if options.kind == "zod" else None
    return PrepareSettings(
        roi=Region(*options.roi) if options.roi else default,
        tiles=tuple(options.tiles) if options.tiles else None,
        resize=tuple(options.resize) if options.resize else None,
        min_visible=options.min_visible,
        jpeg_quality=options.jpeg_quality,
    )
