"""Every detector learns eight images by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from isod.cli.main import main
from isod.detector.model import DETECTORS

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A crop store of 143 blood cells of three classes on eight images of 160×120, to train and to validate on."""
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
    assert main(["prepare", "coco", store, "--train", *split, "--val", *split, "--resize", "160", "120"]) == 0
    return store


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_it_overfits_eight_images(name, eight, tmp_path):
    """300 steps of 8 at 1e-3 with cosine, a quarter of the channels; any seed does."""
    command = ["train", eight, "--sampler", "baseline", "--out", str(tmp_path), "--device", "cpu", "--batch-size", "8",
               "--iterations", "300", "--validate-every", "300", "--lr", "1e-3", "--set", f"detector.name={name}",
               "training.lr_schedule=cosine", "training.flip=false"]  # fmt: skip
    assert main(command) == 0
    assert pd.read_csv(tmp_path / "metrics.csv")["mAP"].iloc[-1] >= 0.9
