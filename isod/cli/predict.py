"""``isod predict``: a trained model on images, folders, videos, or a store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import examples
from isod.vocabulary import SPLITS


def add_predict_parser(commands: Any) -> None:
    """Add ``predict MODEL SOURCE… --out DIR`` to the commands."""
    parser = commands.add_parser(
        "predict",
        help="detect objects with a trained model",
        description="Detect objects with a trained model. Frames are cut and resized as the model's training frames "
        "were; boxes come back in pixels of the whole frame.",
        **examples(
            "isod predict run/model images --out found --save-json",
            "isod predict run/model clip.mp4 --out found --conf 0.3 --classes Vehicle --save-txt --save-conf",
        ),
    )
    add_model_options(parser)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, folder of images, video, or one crop store"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--conf", type=float, metavar="X",
                        help="least score of a detection (default: the model's own)")  # fmt: skip
    parser.add_argument("--iou", type=float, metavar="X",
                        help="IoU above which NMS drops the weaker detection (default: the model's)")  # fmt: skip
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="classes to keep (default: all)")
    parser.add_argument("--split", choices=SPLITS, help="of a store (default: val)")
    parser.add_argument("--save-json", action="store_true", help="write predictions.json in COCO's results format")
    parser.add_argument("--save-txt", action="store_true", help="write a text file for each frame in YOLO's format")
    parser.add_argument("--save-conf", action="store_true", help="add the scores to these text files")
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="write no annotated pictures")
    parser.set_defaults(run=predict)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, and where and how fast it computes."""
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model, such as run/model")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N",
                        help="crops in one forward pass (default: %(default)s)")  # fmt: skip


def predict(options: argparse.Namespace) -> None:
    """Predict on every frame and write what was asked for."""
    from isod.console import progress_bar
    from isod.errors import InputError, require
    from isod.files import folder_lock, output_folder
    from isod.inference.prediction import Predictor, note_on_source
    from isod.inference.sources import Broken, open_sources
    from isod.inference.writers import CocoJson, Pictures, Writer, YoloText
    from isod.training.device import choose_device

    require(options.save_txt or not options.save_conf, "--save-conf adds scores to the files of --save-txt: give both",
            "--save-conf alone")  # fmt: skip
    predictor = Predictor(
        options.model,
        device=choose_device(options.device),
        confidence=options.conf,
        iou=options.iou,
        classes=options.classes,
        batch_size=options.batch_size,
    )
    source = open_sources(options.sources, split=options.split)
    frames = len(source)
    if note := note_on_source(predictor.description, source):
        print(f"note: {note}")
    out = output_folder(options.out)
    with folder_lock(out):
        writers: list[Writer] = []
        if options.pictures:
            writers.append(Pictures(out / "pictures", predictor.class_names))
        if options.save_txt:
            writers.append(YoloText(out / "labels", confidence=options.save_conf))
        if options.save_json:
            writers.append(CocoJson(out / "predictions.json"))
        broken, done, boxes = Broken(), 0, 0
        with progress_bar(frames or None, what="predicting") as advance:
            for item, found in predictor.predict(source, broken):
                for writer in writers:
                    writer.write(item, found)
                done, boxes = done + 1, boxes + len(found)
                advance(1)
        if not done:
            first = next(iter(broken.reasons.values()), "it has none")
            raise InputError(f"no frame of {', '.join(options.sources)} can be read; the first one: {first}")
        for writer in writers:
            writer.close()
    print(f"{boxes} objects on {done} frames, score ≥ {predictor.confidence:.3g}: {out}")
    print_broken(broken.reasons)


def print_broken(reasons: dict[str, str]) -> None:
    """Print which frames could not be read."""
    if reasons:
        print(f"{len(reasons)} could not be read: {', '.join(reasons)}")
