"""The best model of a sweep, and the commands that predict with it."""

import json
import shlex
from itertools import count

import pytest
from matplotlib.colors import to_hex

from isod.cli.main import main
from isod.results.report.prediction_figures import best_model_predictions
from isod.results.statistics.best import best_model, predict_commands
from isod.tracking.sweep_reader import load_runs
from tests.inference.blobs import NAMES, picture, save_blobs
from tests.tracking.mlflow_store import Store


@pytest.fixture
def store(tmp_path):
    """Three runs: the one that was best in between is not the one that ends best."""
    (tmp_path / "a folder").mkdir()
    store = Store(tmp_path / "a folder")
    parent = store.sweep()
    values = {("UIS", 0): (0.9, 0.2), ("UIS", 1): (0.1, 0.4), ("LIS", 0): (0.3, 0.3)}
    for sampler, seed in values:
        store.run(parent, sampler, seed, grid=(5, 10),
                  metrics=lambda sampler, seed, step: {"mAP": values[sampler, seed][step == 10]})  # fmt: skip
    return store


def test_the_run_that_ends_best(store, tmp_path):
    runs = load_runs(store.uri, "grid")
    best = best_model(runs)
    assert (best.name, best.value) == ("UIS-seed1", 0.4)
    assert runs.runs.loc[best.run_id, "seed"] == 1
    assert best.sentence == "best model: UIS-seed1, mAP 0.400 at the end"


def test_the_command_names_its_folder_where_there_is_one(store, tmp_path):
    runs = load_runs(store.uri, "grid")
    best = best_model(runs)
    fetch, predict = predict_commands(runs, best)  # the run has logged no model, as if it were elsewhere
    assert f"--run-id {best.run_id}" in fetch
    assert predict == "isod predict best/model IMAGES --out predictions"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    store.client.log_artifacts(best.run_id, str(tmp_path / "model"), "model")
    (command,) = predict_commands(runs, best)
    words = shlex.split(command)
    assert words[:2] == ["isod", "predict"]
    assert words[2].startswith(str(tmp_path / "a folder"))
    assert words[2].endswith("/model")


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A crop store of rectangles of pure colour, as the model of ``save_blobs`` finds them."""
    folder = tmp_path_factory.mktemp("rectangles")
    for n, objects in enumerate(([(1, 2, 2, 12, 12)], [], [(2, 30, 20, 50, 30), (1, 5, 5, 20, 20)])):
        picture(folder / f"images/{n}.png", (60, 40), *objects)
    boxes = [(0, 1, [2, 2, 10, 10], 0), (2, 2, [30, 20, 20, 10], 0), (2, 1, [40, 2, 10, 10], 1)]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in range(3)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for n, (image, label, box, crowd) in enumerate(boxes, 1)
        ],
    }
    (folder / "val.json").write_text(json.dumps(content))
    images = [folder / "images", folder / "val.json"]
    words = ["prepare", "coco", folder / "crops", "--train", *images, "--val", *images]
    assert main([str(word) for word in words]) == 0
    return folder / "crops"


def predictions(store, crops, model):
    """Of a new sweep of one run, on this crop store and with this folder as its model."""
    parent = store.sweep(start=next(STARTS))
    run_id = store.run(parent, "UIS", 0, grid=(5,), store=str(crops))
    store.client.log_artifacts(run_id, str(model), "model")
    runs = load_runs(store.uri, "grid", parent)
    return best_model_predictions(runs, best_model(runs))


STARTS = count(10_000)


def test_its_predictions_on_validation_images_with_objects(store, crops, tmp_path):
    figure = predictions(store, crops, save_blobs(tmp_path / "blobs"))
    assert figure.title == "What UIS-seed0 finds"
    drawn = figure.draw()
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        "annotated", "annotated as don't-care", "predicted",
    ]  # fmt: skip
    shown = [ax for ax in drawn.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in shown] == ["0", "2"]  # image 1 has no object
    boxes = [
        sorted((p.get_x(), p.get_y(), p.get_width(), p.get_height(), to_hex(p.get_edgecolor())) for p in ax.patches)
        for ax in shown
    ]
    truth, predicted = "#5cc8ff", "#ffa62b"
    assert boxes[0] == [(2, 2, 10, 10, truth), (2, 2, 10, 10, predicted)]
    assert boxes[1] == [
        (5, 5, 15, 15, predicted), (30, 20, 20, 10, truth), (30, 20, 20, 10, predicted), (40, 2, 10, 10, truth),
    ]  # fmt: skip
    assert {text.get_text() for text in shown[1].texts} == {"green", "green 0.75", "red 0.88"}


def test_without_its_folder_or_store_there_is_a_sentence(store, crops, tmp_path, tiny_store):
    model, damaged = save_blobs(tmp_path / "fine"), save_blobs(tmp_path / "damaged")
    (damaged / "model.json").write_text("{")
    for place, folder, message in (
        (tmp_path / "gone", model, "is not a crop store"),
        (tiny_store, model, "now has other classes than the model"),
        (crops, damaged, "is damaged"),
    ):
        said = predictions(store, place, folder)
        assert said.startswith("Its predictions are not shown: ")
        assert message in said
        assert "\n" not in said


def test_a_model_elsewhere_is_a_sentence(store):
    runs = load_runs(store.uri, "grid")
    said = "Its predictions are not shown, as its folder is not on this machine."
    assert best_model_predictions(runs, best_model(runs)) == said
