"""Weights to start from."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from isod.config.settings import DetectorConfig
from isod.detector.model import build_detector
from isod.detector.saved import ModelDescription, save_model
from isod.errors import InputError
from tests.detector.test_torchvision import config


def start(name, weights, classes=3, **changes):
    return build_detector(config(name, weights=str(weights), **changes), classes, seed=9)


@pytest.fixture
def trained():
    return build_detector(config("fcos"), 3, seed=1)


@pytest.mark.parametrize("form", ["state dict", "checkpoint", "DDP", "safetensors", "folder"])
def test_every_form_of_file_is_read(tmp_path, trained, form):
    state, path = trained.state_dict(), tmp_path / "weights.pt"
    if form == "state dict":
        torch.save(state, path)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "model": state}, path)
    elif form == "DDP":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    elif form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "model"
        description = ModelDescription(detector=config("fcos"), class_names=("a", "b", "c"), crop_size=(90, 150))
        save_model(path, trained, description)
    loaded = start("fcos", path).state_dict()
    assert all(value.equal(loaded[name]) for name, value in state.items())


def test_a_head_of_other_classes_is_left_out_and_it_is_logged(tmp_path, trained, caplog):
    torch.save(trained.state_dict(), tmp_path / "three.pt")
    with caplog.at_level(logging.INFO, "isod"):
        model = start("fcos", tmp_path / "three.pt", classes=5)
    loaded, fresh = model.state_dict(), build_detector(config("fcos"), 5, seed=9).state_dict()
    own = "head.classification_head.cls_logits.weight"
    assert loaded[own].equal(fresh[own])
    other = "head.regression_head.bbox_reg.weight"
    assert loaded[other].equal(trained.state_dict()[other])
    (record,) = caplog.records
    count = sum(value.is_floating_point() for value in fresh.values())
    assert f"loaded {count - 2} of {count} tensors" in record.message
    assert own in record.message


def test_a_backbones_own_weights_go_below_the_pyramid(tmp_path):
    backbone = models.resnet18(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "resnet18.pth")
    for name in ("fcos", "retinanet", "faster_rcnn", "ssdlite"):
        model = start(name, tmp_path / "resnet18.pth")
        assert model.backbone.body.layer3[0].conv1.weight.equal(backbone.layer3[0].conv1.weight)
        assert model.backbone.body.bn1.running_var.equal(backbone.bn1.running_var)


def test_what_torchvision_saves_of_its_own_detector_fits(tmp_path):
    """Its names are ours; only the class layer differs, which counts a class more."""
    from torchvision.models.detection import fcos_resnet50_fpn

    theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    torch.save(theirs.state_dict(), tmp_path / "coco.pth")
    model = build_detector(
        DetectorConfig(name="fcos", backbone="resnet50", weights=str(tmp_path / "coco.pth")), 3, seed=0
    )
    here, there = model.state_dict(), theirs.state_dict()
    different = {name for name in there if not here[name].equal(there[name])}
    assert different == {"head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "cannot be read as weights"),
        ({"layer9.weight": torch.ones(3)}, "nothing of detector.weights .* fits a Fcos"),
        ({"note": "text"}, "holds no state dict"),
        (None, "does not exist"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=message) as error:
        start("fcos", path)
    assert "\n" not in str(error.value)


def test_a_torchvision_name_needs_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no such file, and torchvision has no such"):
        start("fcos", "ResNet18_Weights.NONE")

    def refuse(*args, **options):
        from urllib.error import URLError

        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(InputError, match=r"cannot be downloaded .*: fetch https://"):
        start("fcos", "ResNet18_Weights.IMAGENET1K_V1")
