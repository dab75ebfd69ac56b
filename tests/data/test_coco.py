"""CocoReader: what it makes of a good json, and the sentence it has for each bad one."""

import json
import os
from pathlib import Path

import pytest

from isod.data.readers.coco import CocoReader
from isod.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def good():
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 100, "height": 80},
            {"id": 3, "file_name": "sub/a.jpg", "width": 50, "height": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "bbox": [10, 20, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0.5, 0.5, 99.75, 1], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [-0.5, 70, 5, 10.5]},
        ],
        "categories": [{"id": 20, "name": "cat"}, {"id": 5, "name": "dog"}],
    }


@pytest.fixture
def read(tmp_path):
    """Read (train json, val json), each a dict or a text, with the images they name."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("b.jpg", "sub/a.jpg"):
        (images / name).write_bytes(b"not looked at")

    def read(train, val=None):
        for name, content in (("train.json", train), ("val.json", good() if val is None else val)):
            (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return CocoReader(train=(images, tmp_path / "train.json"), val=(images, tmp_path / "val.json"))

    return read


def test_by_hand(read):
    """Labels follow category ids (dog 5, cat 20), frames follow image ids, a hair's overhang is clipped."""
    reader = read(good())
    assert reader.class_names == ("dog", "cat")
    a, b = reader.frames("train")
    assert (a.frame_id, b.frame_id) == ("sub/a.jpg", "b.jpg")
    assert b.size == (80, 100)
    assert a.objects().boxes.shape == (0, 4)
    objects = b.objects()
    assert objects.boxes.tolist() == [[10, 20, 40, 60], [0.5, 0.5, 100, 1.5], [0, 70, 4.5, 80]]
    assert objects.labels.tolist() == [2, 0, 1]
    assert objects.dont_care.tolist() == [False, True, False]


def test_classes_are_matched_by_name(read):
    val = good()
    val["categories"] = [{"id": 1, "name": "cat"}]
    val["annotations"] = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    assert read(good(), val).frames("val")[1].objects().labels.tolist() == [2]


def test_a_class_that_train_lacks(read):
    val = good()
    val["categories"].append({"id": 9, "name": "cow"})
    with pytest.raises(InputError, match=r"val\.json has the class 'cow', which .*train\.json lacks"):
        read(good(), val)


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(content):
        for key in path:
            content = content[key]
        content[last] = value

    return change


BOX = ("annotations", 1, "bbox")
BAD = {
    "negative": (put(*BOX, [1, 1, 5, -5]), r"annotation 2: its bbox has no negative width or height"),
    "immense": (put(*BOX, [1, 1, 10**400, 5]), r"four finite numbers"),
    "three numbers": (put(*BOX, [1, 1, 5]), r"four finite numbers"),
    "text": (put(*BOX, ["1", 1, 5, 5]), r"four finite numbers"),
    "no box": (put(*BOX, None), r"four finite numbers"),
    "unknown image": (put("annotations", 0, "image_id", 99), r"annotation 1: its image_id is one of the images"),
    "list as image": (put("annotations", 0, "image_id", []), r"annotation 1: its image_id is one of the images"),
    "unknown category": (put("annotations", 0, "category_id", 99), r"category_id is one of the categories, got 99"),
    "crowd": (put("annotations", 0, "iscrowd", 2), r"iscrowd is 0 or 1, got 2"),
    "same annotation id": (put("annotations", 1, "id", 1), r"its id is a whole number that no other annotation has"),
    "no images": (put("images", []), r"at least one image"),
    "no classes": (put("categories", []), r"at least one category"),
    "images no list": (put("images", {}), r"'images' is a list of objects"),
    "images of numbers": (put("images", [1]), r"'images' is a list of objects"),
    "same image id": (put("images", 0, "id", 3), r"every image has a whole number of its own as id"),
    "same file": (put("images", 0, "file_name", "sub/a.jpg"), r"no two images have the same file_name"),
    "no file name": (put("images", 0, "file_name", None), r"image 7 has a file_name"),
    "no width": (put("images", 0, "width", 0), r"image 7 \('b.jpg'\): width is a positive whole number"),
    "height text": (put("images", 0, "height", "80"), r"height is a positive whole number"),
    "same class": (put("categories", 0, "name", "dog"), r"no two categories have the same name"),
    "class of don't-care": (put("categories", 0, "name", "dont_care"), r"no category is called 'dont_care'"),
    "no class name": (put("categories", 0, "name", ""), r"category 20 has a name"),
    "class id": (put("categories", 0, "id", True), r"every category has a whole number"),
    "climbs out": (put("images", 0, "file_name", "../train.json"), r"image 7: its file_name stays inside"),
    "absolute": (put("images", 0, "file_name", "/etc/hostname"), r"image 7: its file_name stays inside"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_is_named(read, name):
    change, message = BAD[name]
    content = good()
    change(content)
    with pytest.raises(InputError, match=r"train\.json is not COCO as isod reads it: .*" + message):
        read(content)


@pytest.mark.parametrize(
    ("box", "kept", "note"),
    [
        (
            [1, 1, 0, 5],
            None,
            "boxes of {} without an area in their image, left out: 1, the first of annotation 2",
        ),
        ([50, 1, 1e-9, 5], None, "boxes of {} without an area in their image, left out: 1, the first of annotation 2"),
        ([200, 1, 5, 5], None, "boxes of {} without an area in their image, left out: 1, the first of annotation 2"),
        ([90, 1, 20, 5], [90, 1, 100, 6], "boxes of {} beyond their image, clipped: 1, the first of annotation 2"),
    ],
)
def test_boxes_that_do_not_lie_in_their_image_are_left_out_or_clipped_and_counted(read, tmp_path, box, kept, note):
    """As COCO's own train2017 has them; one of three here, and refused where it is two."""
    content = good()
    put(*BOX, box)(content)
    reader = read(content)
    _, frame = reader.frames("train")
    others = [[10, 20, 40, 60], [0, 70, 4.5, 80]]
    assert frame.objects().boxes.tolist() == [others[0], *([kept] if kept else []), others[1]]
    (told,) = reader.notes
    assert told == "note: " + note.format(tmp_path / "train.json")
    assert read(good()).notes == []
    content["annotations"][0]["bbox"] = box
    with pytest.raises(
        InputError, match=r"most boxes lie inside their images, .* got '2 that do not, the first of ann"
    ):
        read(content)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_key_is_named(read, key):
    content = good()
    del content[key]
    with pytest.raises(InputError, match=f"it has the key '{key}'"):
        read(content)


@pytest.mark.parametrize(
    "text",
    ["", "{", "\ud800".encode("utf-8", "surrogatepass").decode("latin1"), "[" * 100_000],
    ids=["empty", "cut short", "half a pair", "nested too deep"],
)
def test_what_is_not_json_says_so(read, text):
    with pytest.raises(InputError, match=r"train\.json is not JSON"):
        read(text)


def test_json_that_is_no_object_says_so(read):
    with pytest.raises(InputError, match="JSON object with images, annotations and categories"):
        read("[]")


def test_a_link_out_of_the_folder_is_refused(read, tmp_path):
    """Also where the way back out of the link's own folder looks like one within the image folder."""
    os.symlink("/etc", tmp_path / "images/outside")
    content = good()
    content["images"][0]["file_name"] = "outside/../b.jpg"
    with pytest.raises(InputError, match=r"links followed, got 'outside/../b.jpg, which is /b.jpg'"):
        read(content)
    content["images"][0]["file_name"] = "outside/hostname"
    with pytest.raises(
        InputError, match=r"inside the image folder .*, links followed, got 'outside/hostname, which is"
    ):
        read(content)


def test_missing_files_say_so(read, tmp_path):
    reader = read(good())
    os.remove(tmp_path / "images/b.jpg")
    read(good())  # one missing image is a lost frame, later
    os.remove(tmp_path / "images/sub/a.jpg")
    with pytest.raises(InputError, match=r"none of the 2 images of .*train\.json is in the folder"):
        read(good())
    paths = (tmp_path / "images", tmp_path / "train.json")
    with pytest.raises(InputError, match=r"nothing\.json cannot be read: No such file"):
        CocoReader(train=paths, val=(tmp_path / "images", tmp_path / "nothing.json"))
    with pytest.raises(InputError, match=r"image folder .* does not exist"):
        CocoReader(train=(tmp_path / "pictures", tmp_path / "train.json"), val=paths)
    assert reader.settings["train"]["json"] == str(tmp_path / "train.json")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the repository")
@pytest.mark.parametrize(
    ("name", "classes", "frames", "objects"), [("bccd", 3, 283, 3811), ("traffic", 7, 3162, 42549)]
)
def test_shared_sets(name, classes, frames, objects):
    folder = SHARED / name
    reader = CocoReader(*((folder / "images", folder / f"{split}.json") for split in ("train", "val")))
    refs = reader.frames("train")
    assert (len(reader.class_names), len(refs)) == (classes, frames)
    assert sum(len(ref.objects()) for ref in refs) == objects


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\x1b[2J.jpg", "\ud800.jpg", "a\0.jpg"])
def test_control_characters_in_names_are_refused(read, name):
    content = good()
    content["images"][0]["file_name"] = name
    with pytest.raises(InputError, match="has no control characters"):
        read(content)
    content = good()
    content["categories"][0]["name"] = name
    with pytest.raises(InputError, match="has no control characters"):
        read(content)


@pytest.mark.parametrize(
    ("text", "rule"),
    [("NaN", "NaN is no JSON number"), ('{"a": 1, "a": 2}', "has the key 'a' twice"), ("1" * 5000, "limit")],
)
def test_traps_of_json_are_refused(read, text, rule):
    with pytest.raises(InputError, match=rf"train\.json is not JSON: .*{rule}"):
        read(text)
