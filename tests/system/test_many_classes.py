"""A dataset with as many classes as LVIS has, from its json to the report, on real Ray and MLflow."""

import csv
import json
import re

import numpy as np
import pytest
import simplejpeg
from mlflow import MlflowClient

from isod.cli.main import main
from isod.data.store.split import CropStore
from isod.tracking.metric_names import EXTREMES
from isod.tracking.sweep_reader import load_runs

pytestmark = pytest.mark.slow

CLASSES = 1203
SIDE = 96
SAMPLERS = ("baseline", "UIS")


def write_set(folder, split, frames, objects):
    """Noise, with as many objects as there are places in a grid; the class of place i of frame f is f · objects + i."""
    rng = np.random.default_rng(frames)
    images, annotations = [], []
    for frame in range(frames):
        name = f"{split}-{frame}.jpg"
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / name).write_bytes(simplejpeg.encode_jpeg(pixels))
        images.append({"id": frame, "file_name": name, "width": SIDE, "height": SIDE})
        for i in range(objects):
            number = len(annotations)
            box = [12 * (i % 8), 12 * (i // 8), 10, 10]
            annotations.append({"id": number, "image_id": frame, "category_id": number % CLASSES, "bbox": box})
    # two of other scripts, which come last in the order of names too
    names = [*(f"class {number:04d}" for number in range(CLASSES - 2)), "пешеход", "行人"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))
    return names


def test_a_sweep_over_1203_classes(tmp_path, capsys):
    names = write_set(tmp_path, "train", 40, 48)  # 1920 objects: classes 0 … 716 twice, the others once
    write_set(tmp_path, "val", 26, 48)  # 1248: every class, and the first 45 of them twice
    store, out = tmp_path / "store", tmp_path / "out"
    parts = [
        word for s in ("train", "val") for word in (f"--{s}", str(tmp_path / "images"), str(tmp_path / f"{s}.json"))
    ]
    assert main(["prepare", "coco", str(store), *parts]) == 0
    assert list(CropStore.open(str(store)).meta.class_names) == names
    capsys.readouterr()
    words = ["--store", str(store), "--out", str(out), "--preset", "demo", "--seeds", "1", "--samplers", *SAMPLERS]
    assert main(["sweep", *words, "--iterations", "12", "--batch-size", "8", "--validate-every", "6"]) == 0
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for sampler in SAMPLERS:
        run = runs[f"{sampler}-seed0"]
        assert run.info.status == "FINISHED"
        of_classes = {key.partition("/")[2] for key in run.data.metrics if key.startswith("GT/")}
        assert len(of_classes) == 2 * EXTREMES
        assert {"行人", "пешеход"} <= of_classes  # the last ones of those that have one object
        assert len(run.data.metrics) < 600
        assert len(client.get_metric_history(run.info.run_id, "mAP")) == 2
        table = client.download_artifacts(run.info.run_id, "metrics.csv", str(tmp_path))
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["iteration"] for row in rows] == ["6", "12"]
        assert {key for key in rows[-1] if key.startswith("GT/")} == {f"GT/{name}" for name in names}
        assert sum(float(rows[-1][f"GT/{name}"]) for name in names) == 26 * 48
    runs = load_runs(f"sqlite:///{out}/mlflow.db", experiment.name)
    assert {"пешеход", "行人"} <= set(runs.class_names)
    assert len(runs.class_names) == 2 * EXTREMES
    assert runs.objects(0) == 26 * 48  # of all classes, those that MLflow does not list included
    page = (out / "report/report.html").read_text()
    shown = {name for name in names if re.search(rf"\b{name}\b", page)}
    assert len(shown) <= 2 * EXTREMES + 30  # predictions of an image show the classes of at most 30 objects
