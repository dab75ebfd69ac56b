"""Every detector learns eight images by heart, with the settings of the preset ``small``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from isod.cli.main import main

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A crop store of 143 blood cells of three classes on eight images of 320×240, to train and to validate on."""
    if not BCCD.exists():
        pytest.skip("the images of bccd are not here")
    folder = tmp_path_factory.mktemp("eight")
    content = json.loads((BCCD / "train.json").read_text())
    content["images"] = content["images"][:8]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    (folder / "eight.json").write_text(json.dumps(content))
    split = [str(BCCD / "images"), str(folder / "eight.json")]
    store = str(folder / "store")
    assert main(["prepare", "coco", store, "--train", *split, "--val", *split, "--resize", "320", "240"]) == 0
    return store


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "steps"),
    [("thesis", 400), ("fcos", 150), ("retinanet", 400), ("ssdlite", 150), ("faster_rcnn", 150), ("detr", 150)],
)
def test_it_overfits_eight_images(name, steps, eight, tmp_path):
    """Batches of all eight, as many steps as leave some room; RetinaNet's anchors start from far."""
    command = ["train", eight, "--sampler", "baseline", "--out", str(tmp_path), "--device", "cpu", "--batch-size", "8",
               "--iterations", f"{steps}", "--validate-every", "50", "--set", f"detector.name={name}",
               "training.flip=false"]  # fmt: skip
    assert main(command) == 0
    assert pd.read_csv(tmp_path / "metrics.csv")["mAP"].iloc[-1] >= 0.9
