"""A saved detector: what it gives back, and what is no such folder."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from isod.config.settings import DetectorConfig
from isod.detector.model import DETECTORS, build_detector
from isod.detector.saved import ModelDescription, describe_model, load_model, save_model
from isod.errors import InputError

CONFIG = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1), display_threshold=0.4)
DESCRIPTION = ModelDescription(
    detector=CONFIG,
    class_names=("car", "Ampel"),
    crop_size=(32, 48),
    preparation={"roi": [0, 0, 48, 32], "resize": None},
    demo=True,
    commit="abc",
    run={"sampler": "UIS", "seed": 3, "iterations": 10},
)


@pytest.fixture
def saved(tmp_path):
    model = build_detector(CONFIG, 2, seed=5)
    save_model(tmp_path / "model", model, DESCRIPTION)
    return tmp_path / "model", model


def test_it_comes_back_as_it_was(saved):
    folder, model = saved
    again, description = load_model(folder)
    assert description == DESCRIPTION
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    images = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    with torch.inference_mode():
        (one,), (other,) = model.eval().detect(images), again.detect(images)
    assert all(torch.equal(one[key], other[key]) for key in one)


class Tied(nn.Module):
    """Two levels with one head."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(2, 3)] * 2)


def test_tied_weights_are_saved(tmp_path):
    model, again = Tied(), Tied()
    save_model(tmp_path / "model", model, DESCRIPTION)
    again.load_state_dict(load_file(tmp_path / "model/model.safetensors"))
    assert torch.equal(again.heads[1].weight, model.heads[0].weight)


def test_it_is_replaced_as_a_whole(saved):
    folder, model = saved
    save_model(folder, model, replace(DESCRIPTION, commit="def"))
    assert describe_model(folder).commit == "def"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


def test_a_full_disk_leaves_what_was_there(saved):
    folder, model = saved
    with (
        mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        save_model(folder, model, replace(DESCRIPTION, commit="def"))
    assert describe_model(folder).commit == "abc"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


def change(folder: Path, **values):
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "something"}, "was not written by isod, so .* is not a saved model"),
        ({"format_version": 9}, "has format version 9, and this isod reads version 1"),
        ({"detector": {"name": "thesis", "depth": 3}}, "this isod knows no detector setting 'depth'"),
        ({"detector": {"width": -1}}, r"detector width must be in \(0, 4\], got -1"),
        ({"detector": {"name": "thesus"}}, "unknown detector 'thesus'; did you mean 'thesis'"),
        ({"class_names": ["car"]}, "do not fit the detector that model.json describes"),
        ({"crop_size": 3}, "model.json is damaged"),
        ({"speed": 3}, "model.json is damaged"),
    ],
)
def test_a_description_that_is_none_is_a_sentence(saved, values, message):
    folder, _ = saved
    change(folder, **values)
    with pytest.raises(InputError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_model_is_a_sentence(saved, tmp_path):
    with pytest.raises(InputError, match="is not a saved model"):
        load_model(tmp_path)
    (saved[0] / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"the weights .* cannot be read"):
        load_model(saved[0])


def test_detectors_are_named_or_somebody_elses():
    assert set(DETECTORS) >= {"thesis", "detr"}
    with pytest.raises(InputError, match="unknown detector 'fcoss'"):
        build_detector(replace(CONFIG, name="fcoss"), 2, seed=0)
    with pytest.raises(InputError, match="built a dict without loss, detect, state_dict"):
        build_detector(replace(CONFIG, name="tests.detector.test_saved:no_detector"), 2, seed=0)


def no_detector(config, num_classes, seed):
    return {}
