"""``isod evaluate``: how good a trained model is on annotated frames."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import examples
from isod.cli.predict import add_model_options, print_broken
from isod.vocabulary import SPLITS


def add_evaluate_parser(commands: Any) -> None:
    """Add ``evaluate MODEL DATA --out DIR`` to the commands."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a trained model on annotated frames",
        description="Measure a trained model on the crops of a store, as in training, or on the whole frames of a COCO "
        "json: AP by class and size, COCO's AP, precision-recall curves and a confusion matrix.",
        **examples(
            "isod evaluate run/model demo-store --out evaluation",
            "isod evaluate run/model val.json --images images --out evaluation",
        ),
    )
    add_model_options(parser)
    parser.add_argument("data", metavar="STORE|COCO", help="crop store, or COCO json")
    parser.add_argument("--images", type=Path, metavar="DIR",
                        help="images of the json (default: images/ beside it, else its own folder)")  # fmt: skip
    parser.add_argument("--split", choices=SPLITS, help="of the store (default: val)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--conf", type=float, metavar="X", help="least score of a detection in the confusion matrix "
                        "and among the false positives (default: the model's own)")  # fmt: skip
    parser.add_argument("--iou", type=float, metavar="X",
                        help="IoU above which NMS drops the weaker detection (default: the model's)")  # fmt: skip
    parser.set_defaults(run=evaluate)


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate, print the table and write the results."""
    from isod.console import progress_bar
    from isod.detector.saved import describe_model
    from isod.errors import require
    from isod.files import folder_lock, output_folder
    from isod.inference.evaluation import COCO_METRICS, evaluate, open_annotated, write_evaluation
    from isod.inference.prediction import Predictor, note_on_source
    from isod.results.evaluation.page import ap_table, number, text_table, write_page
    from isod.training.device import choose_device

    require(options.conf is None or 0 < options.conf < 1, "--conf must be in (0, 1)", options.conf)
    floor = describe_model(options.model).detector.score_floor
    predictor = Predictor(
        options.model,
        device=choose_device(options.device),
        confidence=floor,
        iou=options.iou,
        batch_size=options.batch_size,
    )
    data = open_annotated(options.data, predictor.class_names, images=options.images, split=options.split)
    if note := note_on_source(predictor.description, data.source):
        print(f"note: {note}")
    out = output_folder(options.out)
    with folder_lock(out):
        with progress_bar(len(data.source), what="evaluating") as advance:
            result = evaluate(predictor, data, threshold=options.conf, advance=advance)
        write_evaluation(result, out)
        page = write_page(result, predictor.description, options.model, out)
    print(text_table(ap_table(result)))
    print("  ".join(f"{name} {number(result.metrics[name])}" for name in COCO_METRICS))
    print(f"page: {page}, metrics.json and predictions.json beside it")
    print_broken(result.broken.reasons)
