"""A trained model as one file for other runtimes: ONNX, or a program of torch.export (pt2).

The file takes images [B, 3, H, W] uint8 RGB, where B is free and H, W are those of the training crops, and gives either
``scores`` [B, C, L] and ``boxes`` [B, L, 4] (xyxy pixels) of every location, or with NMS the detections of all images,
one image after the other, highest score first and at most ``detections_per_image`` of each: ``image`` [n] int64 in
0…B−1, ``labels`` [n] int64 in 1…C, ``scores`` [n], ``boxes`` [n, 4].
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from isod.config.settings import DetectorConfig
from isod.detector.saved import ModelDescription, load_model
from isod.errors import InputError, one_line
from isod.files import atomic_write

CANDIDATES, DETECTIONS = ("scores", "boxes"), ("image", "labels", "scores", "boxes")
DESCRIPTION = "model.json"  # of model.json inside the file: ONNX's metadata, pt2's extra files
CHECKED_BATCHES = (1, 3)  # images; neither is the batch that the model is traced with
TRACED_BATCH = 2
SCORES_AGREE, BOXES_AGREE = 1e-3, 0.1  # largest difference, the boxes' in pixels
MAY_DIFFER = 0.005  # share of the detections after NMS without a partner: their score or IoU is at a threshold
OPSET = 18

# Operations that torch.onnx does not know, in others that it does; asserts of transformers use them.
_NOT_IN_ONNX = {torch.ops.aten._is_all_true.default: lambda values: values.all()}

Arrays = tuple[np.ndarray, ...]


class _Candidates(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.candidates(images)


class _Detections(nn.Module):
    """Candidates, NMS per image and class, the best of each image, in operations that torch.export can trace."""

    def __init__(self, model: Any, config: DetectorConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores, boxes = self.model.candidates(images)  # [B, C, L], [B, L, 4] or [B, C, L, 4]
        image, label, place = (scores >= self.config.score_floor).nonzero(as_tuple=True)
        score = scores[image, label, place]
        box = boxes[image, label, place] if boxes.dim() == 4 else boxes[image, place]
        # Groups lie apart, so that one call of NMS serves all; in float64, as the shift would move boxes in float32.
        group = (image * scores.shape[1] + label).double()
        shift = group * (2.0 * max(images.shape[2], images.shape[3]) + 1)
        box64, score64 = box.double() + shift[:, None], score.double()
        # Of NMS, torchvision promises two detections or more when it is traced: two boxes far away make that true.
        box64 = torch.cat([box64, box64.new_tensor([[-9e5, -9e5, -8e5, -8e5], [-7e5, -7e5, -6e5, -6e5]])])
        keep = nms(box64, torch.cat([score64, score64.new_zeros(2)]), self.config.nms_threshold)
        kept = torch.zeros_like(box64[:, 0]).index_fill(0, keep, 1.0)[:-2].nonzero()[:, 0]
        image, label, score, box = image[kept], label[kept], score[kept], box[kept]
        order = score.argsort(descending=True, stable=True)
        order = order[image[order].argsort(stable=True)]
        image, label, score, box = image[order], label[order], score[order], box[order]
        counts = (image[:, None] == torch.arange(images.shape[0], device=image.device)).sum(0)  # [B]
        rank = torch.arange(image.shape[0], device=image.device) - (counts.cumsum(0) - counts)[image]
        best = (rank < self.config.detections_per_image).nonzero()[:, 0]
        return image[best], label[best] + 1, score[best], box[best]


def export_model(folder: Path | str, path: Path, format: str, *, nms: bool, **settings: Any) -> dict[str, float]:
    """Write the file, run it on noise, and compare it with the model.

    Args:
        format: "onnx" or "pt2".
        nms: whether the file ends with detections rather than candidates.
        settings: fields of DetectorConfig that replace the saved ones: ``score_floor``, ``nms_threshold``.
    Returns:
        The largest difference of ``scores`` and of ``boxes`` (pixels), and the number of ``detections`` or
        ``candidates`` compared.
    Raises:
        InputError: the folder holds no model, its detector has no ``candidates`` or cannot be traced, or the file does
            not give what the model gives; no file is left then.
        OSError: it cannot be written.
    """
    model, description = load_model(folder, **settings)
    if not callable(getattr(model, "candidates", None)):
        raise InputError(
            f"detector {description.detector.name!r} cannot be exported: it has no method candidates(images), which "
            "gives scores and boxes before NMS"
        )
    height, width = description.crop_size
    example = _noise(TRACED_BATCH, height, width, seed=0)
    config = description.detector
    reference = _Detections(model, config).eval() if nms else _Candidates(model).eval()
    with atomic_write(path, path.with_name(f"{path.stem}.part{path.suffix}")) as part:
        if format == "onnx":
            run = _write_onnx(part, _Candidates(model).eval(), example, description, nms=nms)
        else:
            run = _write_pt2(part, reference, example, description)
        return _compare(reference, run, description, nms=nms)


def _noise(batch: int, height: int, width: int, *, seed: int) -> Tensor:
    """Return images [B, 3, H, W] uint8 of blots of several sizes: plain noise is grey to a network."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(batch, 3, height, width)
    for side in (4, 16, 64):
        shape = (batch, 3, max(1, height // side), max(1, width // side))
        blots = torch.rand(shape, generator=generator)
        images += nn.functional.interpolate(blots, size=(height, width), mode="bilinear")
    return (images * 85).to(torch.uint8)


def _program(module: nn.Module, example: Tensor, detector: str) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad(), _quiet(), contextlib.redirect_stderr(io.StringIO()):  # a failure prints the graph
            return torch.export.export(
                module, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
            )
    except Exception as error:
        raise InputError(f"detector {detector!r} cannot be traced by torch.export: {one_line(error)}") from error


def _write_pt2(
    path: Path, module: nn.Module, example: Tensor, description: ModelDescription
) -> Callable[[Tensor], Arrays]:
    """Write the program; return a function that runs the file."""
    torch.export.save(
        _program(module, example, description.detector.name),
        path,
        extra_files={DESCRIPTION: json.dumps(asdict(description))},
    )
    with _quiet():
        loaded = torch.export.load(path).module()

    def run(images: Tensor) -> Arrays:
        with torch.no_grad():
            return tuple(item.numpy() for item in loaded(images))

    return run


def _write_onnx(
    path: Path, module: nn.Module, example: Tensor, description: ModelDescription, *, nms: bool
) -> Callable[[Tensor], Arrays]:
    """Write the graph, with ONNX's own NMS behind it; return a function that runs the file by onnxruntime."""
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 (torch.onnx needs it, and says so less plainly)

    name = description.detector.name
    program = _program(module, example, name)
    try:
        with _quiet():
            program = program.run_decompositions(torch.export.default_decompositions() | _NOT_IN_ONNX)
            written = torch.onnx.export(
                program, input_names=["images"], output_names=list(CANDIDATES), dynamo=True, opset_version=OPSET,
                verbose=False,
            )  # fmt: skip
    except Exception as error:
        reason = one_line(error.__cause__ or error)
        raise InputError(f"detector {name!r} cannot be written as ONNX ({reason}): try --format pt2") from error
    assert written is not None
    graph = written.model_proto
    if nms:
        _append_nms(graph, description.detector)
    onnx.helper.set_model_props(graph, {DESCRIPTION: json.dumps(asdict(description))})
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(list(DETECTIONS if nms else CANDIDATES), {"images": images.numpy()}))


def _append_nms(model: Any, config: DetectorConfig) -> None:
    """Put ONNX's NonMaxSuppression behind scores and boxes, and the best of each image behind that.

    The outputs become those of ``DETECTIONS``. Raises InputError if each class has boxes of its own.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    if len(graph.output[1].type.tensor_type.shape.dim) != 3:
        raise InputError(
            "ONNX has no NMS for a detector that gives each class boxes of its own: leave out --nms, or export with "
            "--format pt2"
        )
    names = {"scores": "all_scores", "boxes": "all_boxes"}
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    constants: dict[str, np.ndarray] = {
        "nms_all": np.array([np.iinfo(np.int32).max], np.int64),  # of a class; the best of an image come later
        "nms_iou": np.array([config.nms_threshold], np.float32),
        "nms_score": np.array([config.score_floor], np.float32),
        "nms_most": np.array(config.detections_per_image, np.int64),
        "nms_zero": np.array(0, np.int64),
        "nms_one": np.array(1, np.int64),
        "nms_row": np.array([0], np.int64),
        "nms_column": np.array([1], np.int64),
        "nms_places": np.array([0, 2], np.int64),
        "nms_apart": np.array(2.0, np.float64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    node = helper.make_node
    graph.node.extend([
        # nms_found, nms_sorted, nms_best: rows (image, class, location)
        node("NonMaxSuppression", ["all_boxes", "all_scores", "nms_all", "nms_iou", "nms_score"], ["nms_found"]),
        node("GatherND", ["all_scores", "nms_found"], ["nms_found_scores"]),
        node("Gather", ["nms_found", "nms_zero"], ["nms_found_images"], axis=1),
        # by image, and highest score first: 2 · image − score is smallest first
        node("Cast", ["nms_found_images"], ["nms_image_number"], to=TensorProto.DOUBLE),
        node("Cast", ["nms_found_scores"], ["nms_found_score"], to=TensorProto.DOUBLE),
        node("Mul", ["nms_image_number", "nms_apart"], ["nms_image_apart"]),
        node("Sub", ["nms_image_apart", "nms_found_score"], ["nms_key"]),
        node("Shape", ["nms_key"], ["nms_count"]),
        node("TopK", ["nms_key", "nms_count"], ["nms_keys", "nms_order"], largest=0),
        node("Gather", ["nms_found", "nms_order"], ["nms_sorted"]),
        node("Gather", ["nms_sorted", "nms_zero"], ["nms_sorted_images"], axis=1),
        # rank within the image: place − number of detections of the images before it
        node("Shape", ["all_scores"], ["nms_batch"], start=0, end=1),
        node("Squeeze", ["nms_batch"], ["nms_images"]),
        node("Range", ["nms_zero", "nms_images", "nms_one"], ["nms_numbers"]),
        node("Unsqueeze", ["nms_sorted_images", "nms_column"], ["nms_image_column"]),
        node("Equal", ["nms_image_column", "nms_numbers"], ["nms_is_of"]),
        node("Cast", ["nms_is_of"], ["nms_is_of_image"], to=TensorProto.INT64),
        node("ReduceSum", ["nms_is_of_image", "nms_row"], ["nms_counts"], keepdims=0),
        node("CumSum", ["nms_counts", "nms_zero"], ["nms_starts"], exclusive=1),
        node("Gather", ["nms_starts", "nms_sorted_images"], ["nms_start"]),
        node("Squeeze", ["nms_count"], ["nms_length"]),
        node("Range", ["nms_zero", "nms_length", "nms_one"], ["nms_place"]),
        node("Sub", ["nms_place", "nms_start"], ["nms_rank"]),
        node("Less", ["nms_rank", "nms_most"], ["nms_is_best"]),
        node("Compress", ["nms_sorted", "nms_is_best"], ["nms_best"], axis=0),
        node("Gather", ["nms_best", "nms_zero"], ["image"], axis=1),
        node("Gather", ["nms_best", "nms_one"], ["nms_class"], axis=1),
        node("Add", ["nms_class", "nms_one"], ["labels"]),
        node("GatherND", ["all_scores", "nms_best"], ["scores"]),
        node("Gather", ["nms_best", "nms_places"], ["nms_at"], axis=1),
        node("GatherND", ["all_boxes", "nms_at"], ["boxes"]),  # (image, location)
    ])  # fmt: skip
    del graph.output[:]
    kinds = {"image": TensorProto.INT64, "labels": TensorProto.INT64}
    graph.output.extend(
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), ["n", 4] if name == "boxes" else ["n"])
        for name in DETECTIONS
    )
    del graph.value_info[:]  # of the renamed


def _compare(
    reference: nn.Module, run: Callable[[Tensor], Arrays], description: ModelDescription, *, nms: bool
) -> dict[str, float]:
    """Return the largest differences of a file and the model on batches of other sizes than the traced one."""
    worst, count, alone = np.zeros(2), 0, 0
    for batch in CHECKED_BATCHES:
        images = _noise(batch, *description.crop_size, seed=batch)
        with torch.no_grad():
            expected = tuple(item.numpy() for item in reference(images))
        got = run(images)
        if nms:
            pairs, without = _paired(expected, got)
        elif [item.shape for item in expected] == [item.shape for item in got]:
            pairs = np.array([[float(np.abs(a - b).max(initial=0)) for a, b in zip(expected, got, strict=True)]])
            without = 0
        else:
            raise InputError("the exported file gives arrays of other shapes than the model: it was not kept")
        worst = np.maximum(worst, pairs.max(axis=0, initial=0))
        alone, count = alone + without, count + expected[-2].size
    if worst[0] > SCORES_AGREE or worst[1] > BOXES_AGREE or alone > MAY_DIFFER * count:
        raise InputError(
            f"the exported file differs from the model by up to {worst[0]:.2g} in scores and {worst[1]:.2g} pixels in "
            f"boxes, and in {alone} of {count} detections: it was not kept"
        )
    return {"scores": worst[0], "boxes": worst[1], "detections" if nms else "candidates": count}


def _paired(expected: Arrays, got: Arrays) -> tuple[np.ndarray, int]:
    """Return the differences [n, 2] in score and box of detections that are the same in both, and how many are not."""
    same = (expected[0][:, None] == got[0]) & (expected[1][:, None] == got[1])  # image and label
    scores = np.abs(expected[2][:, None] - got[2])
    boxes = np.abs(expected[3][:, None] - got[3]).max(axis=-1, initial=0)
    near = same & (scores <= SCORES_AGREE) & (boxes <= BOXES_AGREE)  # [n, m]
    partner = np.where(near, scores / SCORES_AGREE + boxes / BOXES_AGREE, np.inf)
    rows = np.flatnonzero(near.any(axis=1))
    columns = partner[rows].argmin(axis=1) if len(rows) else rows
    pairs = np.stack([scores[rows, columns], boxes[rows, columns]], axis=1)
    return pairs, max(len(expected[0]), len(got[0])) - len(np.unique(columns))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it torch's exporter says nothing of its own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
