"""isod predict, evaluate and export from the command line: a folder of images, and every bad input one sentence."""

import json
import os
import shutil

import pytest

from isod.cli.main import main
from isod.files import LOCK_FILE, folder_lock
from tests.inference.blobs import picture, save_blobs

COMMANDS = {
    "predict": ("{model}", "{images}", "--out", "{out}"),
    "evaluate": ("{model}", "{store}", "--out", "{out}"),
    "export": ("{model}", "--format", "pt2", "--out", "{out}"),
}


@pytest.fixture
def place(tmp_path):
    """A model, and a folder of three images with a red rectangle, one with none, and one file that is no image."""
    for n in range(3):
        picture(tmp_path / f"images/{n}.png", (60, 40), (1, n, 0, n + 10, 10))
    picture(tmp_path / "images/day/dark.png", (60, 40))
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    save_blobs(tmp_path / "model", tiles=[2, 2])
    return tmp_path


@pytest.fixture
def refused(capfd):
    """Runs a command line and gives the one sentence that it was refused with."""

    def run(*arguments):
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        (error,) = [line for line in lines if line.startswith("isod: ")]
        assert not any("Traceback" in line for line in lines)
        return error

    return run


def arguments_of(command, place, store, **changed):
    paths = {"model": place / "model", "images": place / "images", "out": place / "out", "store": store} | changed
    return (command, *(word.format(**paths) for word in COMMANDS[command]))


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_two_commands_in_one_folder(place, refused, command):
    (place / "out").mkdir()
    store = place / "coco.json"
    content = {"images": [{"id": 1, "file_name": "0.png", "width": 60, "height": 40}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
               "categories": [{"id": 1, "name": "red"}]}  # fmt: skip
    store.write_text(json.dumps(content))
    words = arguments_of(command, place, store)
    with folder_lock(place / "out"):
        assert f"is writing to {place / 'out'}: wait until it has ended" in refused(*words)
        assert os.listdir(place / "out") == [LOCK_FILE]
    assert main([str(word) for word in words]) == 0
    assert LOCK_FILE not in os.listdir(place / "out")


def test_a_folder_with_a_broken_file(place, capsys):
    words = arguments_of("predict", place, "")
    assert main([*words, "--save-json", "--save-txt", "--save-conf"]) == 0
    printed = capsys.readouterr().out
    assert "3 objects on 4 frames, score ≥ 0.5" in printed
    assert f"1 could not be read: {place / 'images/broken.jpg'}" in printed
    out = place / "out"
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == [
        "labels/0.txt", "labels/1.txt", "labels/2.txt", "labels/day/dark.txt",
        "pictures/0.jpg", "pictures/1.jpg", "pictures/2.jpg", "pictures/day/dark.jpg", "predictions.json",
    ]  # fmt: skip
    assert (out / "labels/2.txt").read_text() == "0 0.116667 0.125000 0.166667 0.250000 0.875000\n"
    found = json.loads((out / "predictions.json").read_text())
    assert [(p["image_id"], p["file_name"], p["bbox"]) for p in found] == [
        (1, "0.png", [0, 0, 10, 10]), (2, "1.png", [1, 0, 10, 10]), (3, "2.png", [2, 0, 10, 10]),
    ]  # fmt: skip


def test_a_store_that_was_prepared_otherwise_is_a_note(place, tiny_store, capsys):
    assert main([*arguments_of("predict", place, "", images=tiny_store), "--no-pictures"]) == 0
    assert "note: the store's crops were not prepared as those" in capsys.readouterr().out
    assert list((place / "out").iterdir()) == []


def change(key, value):
    def damage(model):
        content = json.loads((model / "model.json").read_text())
        content[key] = value
        (model / "model.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a saved model"),
        (lambda model: (model / "model.json").write_text("{"), "is damaged"),
        (lambda model: (model / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
        (lambda model: (model / "model.safetensors").unlink(), "cannot be read"),
        (change("format_version", 2), "has format version 2, and this isod reads version 1"),
        (change("detector", {"name": "thesus"}), "unknown detector 'thesus'; did you mean 'thesis'?"),
        (change("detector", {"name": "tests.inference.blobs:nothing"}), "cannot be imported"),
        (change("detector", {"name": "tests.detector.outside:build_nothing"}), "cannot be built (ZeroDivisionError: "),
        (change("detector", {"name": "thesis"}), "do not fit the detector"),
    ],
)
def test_a_damaged_model_is_a_sentence(place, tiny_store, refused, command, damage, message):
    damage(place / "model")
    assert message in refused(*arguments_of(command, place, tiny_store))


@pytest.mark.parametrize("command", ["predict", "evaluate"])  # export cuts no frames
@pytest.mark.parametrize(
    ("preparation", "message"),
    [
        ({"roi": "far"}, "preparation"),
        ({"tiles": [0, 1]}, "tiles is COLUMNS ROWS"),
        ({"min_visible": 2}, "min_visible must be in [0, 1], got 2"),
        ({"min_visible": "most"}, "has the preparation {'min_visible': 'most'}, which is damaged"),
    ],
)
def test_a_damaged_preparation_is_a_sentence(place, tiny_store, refused, command, preparation, message):
    change("preparation", preparation)(place / "model")
    assert message in refused(*arguments_of(command, place, tiny_store))


def test_other_classes_than_the_store_are_a_sentence(place, tiny_store, refused):
    assert "the model knows the classes red, green" in refused(*arguments_of("evaluate", place, tiny_store))
    image = {"id": 1, "file_name": "0.png", "width": 60, "height": 40}
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}]
    coco = {"categories": [{"id": 1, "name": "blue"}], "images": [image], "annotations": objects}
    (place / "val.json").write_text(json.dumps(coco))
    sentence = refused(*arguments_of("evaluate", place, place / "val.json"))
    assert "has the class 'blue', which the model does not know; it knows red, green" in sentence


def test_a_source_without_images_is_a_sentence(place, refused):
    (place / "empty").mkdir()
    assert "holds no image" in refused(*arguments_of("predict", place, "", images=place / "empty"))
    assert "does not exist" in refused(*arguments_of("predict", place, "", images=place / "gone"))
    (place / "empty/a.jpg").write_bytes(b"no image")
    assert "no frame of" in refused(*arguments_of("predict", place, "", images=place / "empty"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_not_writable_is_a_sentence(place, tmp_path, refused, command):
    coco = {"categories": [{"id": 1, "name": "red"}], "images": [{"id": 1, "file_name": "0.png", "width": 60,
            "height": 40}], "annotations": []}  # fmt: skip
    (place / "val.json").write_text(json.dumps(coco))
    (place / "file").write_text("")
    shut = place / "file" if os.geteuid() == 0 else place / "shut"  # root may write everywhere, but not below a file
    if shut.name == "shut":
        shut.mkdir(mode=0o500)
    sentence = refused(*arguments_of(command, place, place / "val.json", out=shut / "results"))
    assert f"cannot write to the folder {shut}" in sentence


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", "--conf", "2"), "--conf must be in (0, 1), got 2.0"),
        (("predict", "--iou", "0"), "--iou must be in (0, 1)"),
        (("predict", "--batch-size", "0"), "--batch-size must be ≥ 1"),
        (("predict", "--classes", "Red"), "unknown class 'Red'; did you mean 'red'?"),
        (("predict", "--save-conf"), "--save-conf adds scores to the files of --save-txt"),
        (("evaluate", "--conf", "0"), "--conf must be in (0, 1)"),
        (("export", "--conf", "0.5"), "--conf and --iou are of NMS: give --nms too"),
        (("export", "--nms", "--iou", "1"), "--conf and --iou must be in (0, 1)"),
        (("export",), "cannot be exported: it has no method candidates(images)"),
    ],
)
def test_an_option_out_of_range_is_a_sentence(place, tiny_store, refused, words, message):
    command, *options = words
    assert message in refused(*arguments_of(command, place, tiny_store), *options)
