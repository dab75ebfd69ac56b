"""Exported files, opened and run as somebody without isod would, against the model's own detections."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from isod.cli.main import main
from isod.config.settings import DetectorConfig
from isod.detector.model import build_detector
from isod.detector.saved import ModelDescription, load_model, save_model
from isod.errors import InputError
from isod.inference import export
from isod.inference.export import export_model
from isod.inference.prediction import Predictor
from isod.inference.sources import open_sources
from tests.inference.blobs import save_blobs

SIZE, NAMES = (40, 56), ("car", "bus")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network") / "model"
    config = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1), detections_per_image=1000)
    model = build_detector(config, len(NAMES), seed=0)
    torch.nn.init.normal_(model.head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    save_model(folder, model, ModelDescription(detector=config, class_names=NAMES, crop_size=SIZE))
    return folder


def runner(path):
    """Images → arrays by name, by the format's own runtime; and the description inside."""
    if path.suffix == ".onnx":
        ort = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        text = session.get_modelmeta().custom_metadata_map["model.json"]
        return lambda images: dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True)), text
    files = {"model.json": ""}
    module = torch.export.load(path, extra_files=files).module()

    def run(images):
        found = [item.detach().numpy() for item in module(images)]
        return dict(zip(("scores", "boxes") if len(found) == 2 else ("image", "labels", "scores", "boxes"), found,
                        strict=True))  # fmt: skip

    return run, files["model.json"]


def images(batch):
    return torch.randint(0, 256, (batch, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_every_location(network, tmp_path, format):
    pytest.importorskip("onnxscript" if format == "onnx" else "torch", reason="the extra export is not installed")
    path = tmp_path / f"model.{format}"
    found = export_model(network, path, format, nms=False)
    assert found["scores"] < 1e-4
    assert found["boxes"] < 1e-2
    assert found["candidates"] == (1 + 3) * len(NAMES) * 5 * 7  # locations of 40×56 at stride 8
    run, text = runner(path)
    assert json.loads(text)["class_names"] == list(NAMES)
    model, _ = load_model(network)
    for batch in (1, 5):
        got = run(images(batch))
        with torch.inference_mode():
            scores, boxes = model.candidates(images(batch))
        np.testing.assert_allclose(got["scores"], scores, atol=1e-5)
        np.testing.assert_allclose(got["boxes"], boxes, atol=1e-3)
        assert got["boxes"].min() >= 0
        assert (got["boxes"] <= [SIZE[1], SIZE[0]] * 2).all()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("most", [1000, 7])
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_detections(network, tmp_path, format, most):
    """With NMS: what ``detect`` gives for each image, one after the other, and no more of each."""
    pytest.importorskip("onnxscript" if format == "onnx" else "torch", reason="the extra export is not installed")
    path = tmp_path / f"model.{format}"
    settings = {"score_floor": 0.02, "nms_threshold": 0.4, "detections_per_image": most}
    assert export_model(network, path, format, nms=True, **settings)["detections"] > 10
    run, _ = runner(path)
    model, _ = load_model(network, **settings)
    for batch in (1, 4):
        got = run(images(batch))
        with torch.inference_mode():
            expected = model.detect(images(batch))
        assert min(most, 10) <= max(len(one["scores"]) for one in expected) <= most
        assert got["image"].tolist() == [n for n, one in enumerate(expected) for _ in one["scores"]]
        for name, tolerance in (("scores", 1e-5), ("boxes", 1e-3), ("labels", 0)):
            np.testing.assert_allclose(got[name], torch.cat([one[name] for one in expected]), atol=tolerance)


def test_no_detection_at_all(network, tmp_path):
    """A floor that nothing reaches, in batches that the file has never seen."""
    for format in ("onnx", "pt2"):
        found = export_model(
            network, tmp_path / f"m.{format}", format, nms=True, score_floor=0.4999999, nms_threshold=0.1
        )
        assert not math.isnan(found["scores"])
        run, _ = runner(tmp_path / f"m.{format}")
        black = run(torch.zeros(2, 3, *SIZE, dtype=torch.uint8))
        assert black["boxes"].shape == (len(black["scores"]), 4)


class OwnBoxes(nn.Module):
    """One location, the image, whose box is wider for the second class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def loss(self, images, objects, *, example_weights=None):
        raise NotImplementedError

    def detect(self, images):
        raise NotImplementedError

    def candidates(self, images):
        scores = self.layer(images.float().mean((2, 3)) / 255).sigmoid()
        boxes = torch.tensor([[0, 0, 20, 20], [0, 0, 40, 20.0]])
        return scores[:, :, None], boxes[None, :, None].expand(images.shape[0], -1, -1, -1)


def build(config, num_classes, seed):
    return OwnBoxes()


def test_a_box_for_each_class(tmp_path):
    config = DetectorConfig(name=f"{__name__}:build")
    description = ModelDescription(detector=config, class_names=NAMES, crop_size=SIZE)
    save_model(tmp_path / "model", OwnBoxes(), description)
    export_model(tmp_path / "model", tmp_path / "m.pt2", "pt2", nms=True)
    run, _ = runner(tmp_path / "m.pt2")
    got = run(images(2))
    assert sorted(zip(got["image"], got["labels"], got["boxes"][:, 2], strict=True)) == [
        (0, 1, 20), (0, 2, 40), (1, 1, 20), (1, 2, 40),
    ]  # fmt: skip
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    with pytest.raises(InputError, match="ONNX has no NMS for a detector that gives each class boxes of its own"):
        export_model(tmp_path / "model", tmp_path / "m.onnx", "onnx", nms=True)
    assert not (tmp_path / "m.onnx").exists()


SMALL = dict(pyramid_channels=64, score_floor=0.02)


@pytest.fixture(scope="module", params=[
    "fcos", "retinanet", "faster_rcnn", pytest.param("ssdlite", marks=pytest.mark.slow),
    pytest.param("detr", marks=pytest.mark.slow),
])  # fmt: skip
def other(request, tmp_path_factory):
    """The folder of another detector with random weights; scores are near 0.5 and differ by more than float noise."""
    if request.param == "detr":
        pytest.importorskip("transformers", reason="the extra detr is not installed")
    folder = tmp_path_factory.mktemp(request.param) / "model"
    config = DetectorConfig(name=request.param, **SMALL)
    model = build_detector(config, len(NAMES), seed=0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if any(part in name for part in CLASS_LAYERS):
                nn.init.normal_(weights, std=0.5 * (weights.dim() > 1), generator=torch.Generator().manual_seed(1))
    save_model(folder, model, ModelDescription(detector=config, class_names=NAMES, crop_size=(64, 96)))
    return folder


CLASS_LAYERS = ("cls_logits", "cls_score", "classification_head.module_list", "class_embed")


def test_other_detectors_predict(other, tmp_path):
    """Two frames, one larger than the crops: every box is in its frame, and the batch size has no effect."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    for name, part in (("a", pixels), ("b", pixels[:64, :96])):
        Image.fromarray(part).save(tmp_path / f"{name}.png")
    source = open_sources([str(tmp_path)])
    one, many = (
        [found for _, found in Predictor(other, confidence=0.02, batch_size=size).predict(source)] for size in (1, 8)
    )
    for found, same, (height, width) in zip(one, many, ((90, 130), (64, 96)), strict=True):
        assert len(found) > 10
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height] * 2).all()
        np.testing.assert_allclose(found.scores, same.scores, atol=1e-4)


@pytest.mark.parametrize("nms", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_other_detectors_are_exported_or_say_why_not(other, tmp_path, capfd, format, nms):
    """By the command's own comparison on batches of 1 and 3; Faster R-CNN, whose proposals are as many as it finds, is
    one sentence."""
    pytest.importorskip("onnxscript" if format == "onnx" else "torch", reason="the extra export is not installed")
    path, faster = tmp_path / f"model.{format}", "faster_rcnn" in str(other)
    words = ["export", str(other), "--format", format, "--out", str(path), *(["--nms"] if nms else [])]
    assert main(words) == (2 if faster else 0)
    printed, said = capfd.readouterr()
    assert path.exists() == (not faster)
    if faster:
        assert said.startswith("isod: detector 'faster_rcnn' cannot be traced by torch.export: ")
        assert said.count("\n") == 1
    else:
        compared = re.search(r"checked against the model on (\d+) (?:detections|candidates): largest", printed)
        assert int(compared[1]) > 100
        assert said == ""


def test_a_detector_without_candidates_is_a_sentence(tmp_path):
    with pytest.raises(
        InputError, match=r"detector 'tests\.inference\.blobs:build' cannot be exported: it has no method"
    ):
        export_model(save_blobs(tmp_path / "model"), tmp_path / "model.pt2", "pt2", nms=False)
    assert not (tmp_path / "model.pt2").exists()


def test_a_file_that_differs_is_not_kept(network, tmp_path, monkeypatch):
    write = export._write_pt2

    def wrong(*arguments):
        run = write(*arguments)
        return lambda images: tuple(item + 1 for item in run(images))

    monkeypatch.setattr(export, "_write_pt2", wrong)
    with pytest.raises(InputError, match="differs from the model by up to 1 in scores and 1 pixels in boxes"):
        export_model(network, tmp_path / "model.pt2", "pt2", nms=False)
    assert list(tmp_path.iterdir()) == []
