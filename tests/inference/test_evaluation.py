"""An evaluation: by hand on rectangles, against the training's own validation, and against pycocotools."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from isod.cli.main import main
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.inference.evaluation import evaluate, open_annotated
from isod.inference.prediction import Predictor
from isod.results.evaluation.figures import _rows_shown
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from tests.inference.blobs import NAMES, picture, save_blobs
from tests.results.browser import needs_chromium, widths_of
from tests.results.made_store import scene, write_store
from tests.training.tiny_run import run_here, tiny_run


@pytest.fixture(scope="module")
def trained(tiny_store, tmp_path_factory):
    return run_here(tiny_run(), tiny_store, tmp_path_factory.mktemp("trained") / "run")


def coco_set(folder, images, *, categories=((7, "green"), (3, "red"))):
    """Write images 60×40 and a json; each image: (rectangles drawn, (category, bbox, crowd) annotated)."""
    content = {"categories": [{"id": key, "name": name} for key, name in categories], "images": [], "annotations": []}
    for n, (drawn, annotated) in enumerate(images):
        picture(folder / f"images/{n}.png", (60, 40), *drawn)
        content["images"].append({"id": 10 + n, "file_name": f"{n}.png", "width": 60, "height": 40})
        content["annotations"] += [
            {
                "id": 100 * n + i + 1,
                "image_id": 10 + n,
                "category_id": c,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": d,
            }
            for i, (c, box, d) in enumerate(annotated)
        ]
    (folder / "val.json").write_text(json.dumps(content))
    return folder / "val.json"


RED, GREEN = (1, 2, 2, 12, 12), (2, 30, 20, 50, 30)
RIGHT = [([RED, GREEN], [(3, [2, 2, 10, 10], 0), (7, [30, 20, 20, 10], 0)])]


def test_a_detector_that_is_always_right(tmp_path):
    """mAP 1 and COCO's numbers 1, on whole frames and on tiles that cut both objects; labels by name, ids its own."""
    path = coco_set(tmp_path, RIGHT)
    for name, tiles in (("whole", None), ("tiled", [5, 3])):
        model = save_blobs(tmp_path / name, tiles=tiles)
        found = evaluate(Predictor(model, confidence=0.01), open_annotated(str(path), NAMES))
        for metric in ("mAP", "binary_AP", "COCO_AP50-95", "COCO_AP50", "COCO_AP75"):
            assert found.metrics[metric] == pytest.approx(1)
        assert found.confusion.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
        got = [(p["image_id"], p["category_id"], p["bbox"]) for p in found.predictions]
        assert got == [(10, 3, [2, 2, 10, 10]), (10, 7, [30, 20, 20, 10])]


def test_errors_by_hand(tmp_path):
    """Image 1: a red thing that is annotated green. Image 2: one that is not annotated, in a don't-care box another.
    Of red: hit, and two false positives of equal score, one before or after it: AP 1, 1/2 or 1/3 by order. Image order
    breaks ties, so it is the first, and AP is 1; of green one of two is found."""
    images = [
        *RIGHT,
        ([RED], [(7, [2, 2, 10, 10], 0)]),
        ([RED, (1, 30, 5, 40, 15)], [(7, [28, 3, 15, 15], 1)]),
    ]
    path = coco_set(tmp_path, images)
    found = evaluate(Predictor(save_blobs(tmp_path / "model"), confidence=0.01), open_annotated(str(path), NAMES))
    assert found.metrics["AP/red"] == 1
    assert found.metrics["AP/green"] == 0.5
    assert found.metrics["FP/red"] == 2
    assert found.confusion.tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert (found.images, found.objects) == (3, 3)
    recall, precision, _ = found.curves[0]
    assert recall.tolist() == [1, 1, 1]
    assert precision == pytest.approx([1, 1 / 2, 1 / 3])


def test_only_the_region_of_interest_counts(tmp_path):
    """Of the region 25…60 × 0…40 the red object is outside, and the green one keeps its place in the frame."""
    path = coco_set(tmp_path, RIGHT)
    model = save_blobs(tmp_path / "model", roi=[25, 0, 60, 40])
    found = evaluate(Predictor(model, confidence=0.01), open_annotated(str(path), NAMES))
    assert np.isnan(found.metrics["AP/red"])
    assert found.metrics["mAP"] == 1
    assert found.metrics["GT_large/green"] == 1  # 200 of 35·40 pixels
    assert [p["bbox"] for p in found.predictions] == [[30, 20, 20, 10]]


@pytest.mark.parametrize(("min_visible", "counted"), [(None, 1), (0.25, 1), (0.75, 1), (0.8, 0)])
def test_an_object_counts_if_the_region_keeps_as_much_of_it_as_in_the_store(tmp_path, min_visible, counted):
    """The region begins at x = 35, so it keeps 15 of the green object's 20 columns: 0.75; None: an older model.json."""
    path = coco_set(tmp_path, RIGHT)
    visible = {} if min_visible is None else {"min_visible": min_visible}
    model = save_blobs(tmp_path / "model", roi=[35, 0, 60, 40], **visible)
    found = evaluate(Predictor(model, confidence=0.01), open_annotated(str(path), NAMES))
    assert found.objects == counted


def test_a_model_remembers_how_much_of_an_object_had_to_be_visible(trained, tiny_store):
    written = json.loads((trained / "model/model.json").read_text())["preparation"]
    assert written["min_visible"] == CropStore.open(tiny_store).meta.settings["min_visible"] == 0.25


def assert_gives_what_training_measured(run, store, out):
    """Every metric of the last validation to the last bit, as the crops and the batches are the same."""
    arguments = ["evaluate", run / "model", store, "--out", out, "--batch-size", "8"]
    assert main([*map(str, arguments), "--device", "cpu", "--conf", "0.5"]) == 0  # as FP is counted in training
    measured = json.loads((out / "metrics.json").read_text())
    last = pd.read_csv(run / "metrics.csv").iloc[-1]
    shared = [name for name in measured if name in last]
    assert len(shared) > 20
    for name in shared:
        value = np.nan if measured[name] is None else measured[name]
        assert value == pytest.approx(last[name], abs=1e-9, nan_ok=True), name
    return last


class Fixed(nn.Module):
    """Of each crop: the upper left box, partly beyond a smaller crop, and with a higher score one in its padding."""

    def detect(self, images):
        boxes = torch.tensor([[0.0, 0.0, 64, 24], [44.0, 4.0, 60, 20]])
        scores, labels = torch.tensor([0.8, 0.9]), torch.tensor([1, 1])
        return [{"boxes": boxes, "scores": scores, "labels": labels} for _ in images]


def test_training_measures_a_crop_without_its_padding_as_evaluation_does(tmp_path, monkeypatch):
    """Both boxes of the small crops: one is right once it is clipped, the other is in the black beside the crop."""
    val = [(f"{n}.png", scene(n, (24, 40)), [(1, 0, 0, 40, 24)]) for n in range(4)]
    store = CropStore.open(write_store(tmp_path / "store", [("t.png", scene(9), [(1, 0, 0, 9, 9)])], val, ("light",)))
    trainer = Trainer(tiny_run(), store.meta, torch.device("cpu"))
    monkeypatch.setattr(Trainer, "evaluated", Fixed())
    found = trainer.validate(ValidationCrops(store.split("val"), 4))
    assert found["AP/light"] == pytest.approx(1.0)
    assert found["FP/light"] == 0


def test_a_store_gives_what_training_measured(trained, tiny_store, tmp_path, capsys):
    last = assert_gives_what_training_measured(trained, tiny_store, tmp_path / "out")
    printed = capsys.readouterr().out
    assert f"mean (mAP)  {last['mAP']:>18.3f}".split() == [w for line in printed.splitlines() for w in line.split()
                                                          if "mean" in line][:3]  # fmt: skip
    assert "COCO_AP50-95" in printed


def test_of_many_classes_the_confusion_matrix_shows_those_with_the_most_objects():
    """33 classes, class n with n objects, all found but for one each: the three rarest become one row."""
    confusion = np.diag([0, *range(1, 34)])
    confusion[1:, 0], confusion[np.arange(1, 34), np.arange(1, 34)] = 1, np.arange(33)
    matrix, names = _rows_shown(SimpleNamespace(confusion=confusion, class_names=[f"c{n}" for n in range(1, 34)]))
    assert names == [*(f"c{n}" for n in range(4, 34)), "3 other classes", "nothing"]
    assert matrix.sum() == confusion.sum()
    assert matrix[0, [0, 30, 31]].tolist() == [3, 0, 1]
    assert matrix[30, [0, 30, 31]].tolist() == [0, 0 + 1 + 2, 3]


def test_predictions_json_gives_the_same_in_pycocotools(tmp_path):
    """Somebody else's script reads predictions.json and the data set's own json."""
    path = coco_set(tmp_path, [*RIGHT, ([RED], [(7, [2, 2, 10, 10], 0)]), ([GREEN], [(7, [31, 20, 20, 10], 0)])])
    model = save_blobs(tmp_path / "model")
    assert main(["evaluate", str(model), str(path), "--out", str(tmp_path / "out")]) == 0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "out/predictions.json")), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    ours = json.loads((tmp_path / "out/metrics.json").read_text())
    names = ("COCO_AP50-95", "COCO_AP50", "COCO_AP75")
    assert [ours[name] for name in names] == pytest.approx(evaluation.stats[:3].tolist())


@needs_chromium
def test_the_page_needs_no_other_file_and_fits_a_phone(tmp_path):
    path = coco_set(tmp_path, RIGHT)
    (tmp_path / "images/1.png").write_bytes(b"no image")
    content = json.loads(path.read_text())
    content["images"].append({"id": 99, "file_name": "1.png", "width": 60, "height": 40})
    path.write_text(json.dumps(content))
    assert main(["evaluate", str(save_blobs(tmp_path / "model")), str(path), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/evaluation.html").read_text()
    assert 'src="http' not in page
    assert "1.png: its image" in page
    for width in (390, 1200):
        needed, has = widths_of(tmp_path / "out/evaluation.html", tmp_path, width)
        assert needed <= has


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: folder / "nothing.json", "does not exist: name a crop store or a COCO json"),
        (lambda folder: folder, "is no crop store: name one, or a COCO json"),
        (lambda folder: coco_set(folder, RIGHT, categories=((3, "red"), (7, "blue"))),
         "has the class 'blue', which the model does not know; it knows red, green"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_on_is_a_sentence(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        open_annotated(str(change(tmp_path)), NAMES)


def test_other_classes_than_the_store_is_a_sentence(tmp_path, tiny_store):
    with pytest.raises(InputError, match=r"the model knows the classes red, green, and .* has \w+"):
        open_annotated(tiny_store, NAMES)
