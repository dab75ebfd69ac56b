"""Exported files, opened and run as somebody without isod would, against the model's own detections."""

import json
import math

import numpy as np
import pytest
import torch

from isod.config.settings import DetectorConfig
from isod.detector.model import build_detector
from isod.detector.saved import ModelDescription, load_model, save_model
from isod.errors import InputError
from isod.inference import export
from isod.inference.export import export_model
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


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_detections(network, tmp_path, format):
    """With NMS: what ``detect`` gives for each image, in any order."""
    pytest.importorskip("onnxscript" if format == "onnx" else "torch", reason="the extra export is not installed")
    path = tmp_path / f"model.{format}"
    settings = {"score_floor": 0.02, "nms_threshold": 0.4}
    assert export_model(network, path, format, nms=True, **settings)["detections"] > 10
    run, _ = runner(path)
    model, _ = load_model(network, **settings)
    for batch in (1, 4):
        got = run(images(batch))
        with torch.inference_mode():
            expected = model.detect(images(batch))
        assert sum(len(one["scores"]) for one in expected) > 10
        for number, one in enumerate(expected):
            mine = got["image"] == number
            order = np.argsort(-got["scores"][mine], kind="stable")
            np.testing.assert_allclose(got["scores"][mine][order], one["scores"], atol=1e-5)
            np.testing.assert_allclose(got["boxes"][mine][order], one["boxes"], atol=1e-3)
            assert got["labels"][mine][order].tolist() == one["labels"].tolist()


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
