"""``isod export``: a trained model as one file for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import examples

FORMATS = ("onnx", "pt2")


def add_export_parser(commands: Any) -> None:
    """Add ``export MODEL --format NAME --out FILE`` to the commands."""
    parser = commands.add_parser(
        "export",
        help="write a trained model as ONNX or as a program of torch.export",
        description="Write a trained model as one file, run the file, and print its largest difference from the model. "
        "Decoding of boxes is part of it; the number of images is free, their size is that of the training crops.",
        **examples(
            "isod export run/model --format onnx --out model.onnx",
            "isod export run/model --format pt2 --out model.pt2 --nms --iou 0.6 --conf 0.25",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model, such as run/model")
    parser.add_argument("--format", choices=FORMATS, required=True, help="onnx or pt2 (torch.export)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--nms", action="store_true", help="end with detections after NMS, at most "
                        "detections_per_image of each image, not with every location")  # fmt: skip
    parser.add_argument("--conf", type=float, metavar="X",
                        help="with --nms: least score of a detection (default: score_floor of the model)")  # fmt: skip
    parser.add_argument("--iou", type=float, metavar="X",
                        help="with --nms: IoU above which NMS drops a detection (default: the model's)")  # fmt: skip
    parser.set_defaults(run=export)


def export(options: argparse.Namespace) -> None:
    """Export, compare, and print the largest difference."""
    from isod.errors import require
    from isod.files import output_folder
    from isod.inference.export import export_model

    settings = {"score_floor": options.conf, "nms_threshold": options.iou}
    settings = {name: value for name, value in settings.items() if value is not None}
    require(options.nms or not settings, "--conf and --iou are of NMS: give --nms too", sorted(settings))
    for value in settings.values():
        require(0 < value < 1, "--conf and --iou must be in (0, 1)", value)
    require(not options.out.is_dir(), "--out must be a file, not a folder", str(options.out))
    output_folder(options.out.parent)
    found = export_model(options.model, options.out, options.format, nms=options.nms, **settings)
    *_, (what, count) = found.items()
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    print(
        f"checked against the model on {count:.0f} {what}: largest difference {found['scores']:.1e} in scores, "
        f"{found['boxes']:.1e} pixels in boxes"
    )
