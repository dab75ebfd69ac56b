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


def with_fields(*fields):
    """The images of ``good``, each with these fields more."""
    content = good()
    for image, more in zip(content["images"], fields, strict=True):
        image.update(more)
    return content


@pytest.mark.parametrize(
    ("fields", "sequences"),
    [
        ([{}, {}], ["", ""]),
        ([{"video_id": 4}, {"video_id": "x"}], ["x", "4"]),  # in the order of image ids
        ([{"video_id": 4, "sequence": "a"}, {"video_id": 5, "sequence": "b"}], ["b", "a"]),
        ([{"video_id": 4, "sequence": "a"}, {"video_id": 5}], ["5", "4"]),
        ([{"video_id": 4}, {"video_id": None}], ["", ""]),
    ],
)
def test_the_field_that_every_image_has_names_its_sequence(read, fields, sequences):
    both = with_fields(*fields)
    reader = read(both, both)
    assert [frame.sequence for frame in reader.frames("train")] == sequences
    assert ("note: 2 sequences, by the images'" in "".join(reader.notes)) == all(sequences)
    assert "sequence_field" not in reader.settings
    assert [frame.sequence for frame in read(both, good()).frames("train")] == ["", ""]  # val has no field


def test_a_field_that_is_named_must_be_on_every_image(read, tmp_path):
    read(with_fields({"clip": "a"}, {"clip": ["b"]}))
    files = (tmp_path / "images", tmp_path / "train.json")
    with pytest.raises(InputError, match=r"image 3 has clip \['b'\], which is to name its sequence. Make it text or a"):
        CocoReader(files, sequence_field="clip")
    read(with_fields({"clip": "a"}, {"clip": "b"}))
    assert CocoReader(files, sequence_field="clip").settings["sequence_field"] == "clip"


def test_a_class_that_only_val_has_objects_of(read):
    """As in a thin part of a large set: the class stays, and its AP is that of a detector that never saw it."""
    train, val = good(), good()
    train["categories"] += [{"id": 0, "name": "cow"}, {"id": 9, "name": "cow"}, {"id": 10, "name": "cat"}]
    val["categories"].append({"id": 9, "name": "cow"})
    val["annotations"][0]["category_id"] = 9
    names = read(train, val).class_names
    assert sorted(names) == ["cat", "cow", "dog"]
    labels = [label for frame in read(train, val).frames("val") for label in frame.objects().labels.tolist()]
    assert labels.count(names.index("cow") + 1) == 1


def test_a_class_that_train_lacks(read):
    val = good()
    val["categories"].append({"id": 9, "name": "cow"})
    assert read(good(), val).class_names == ("dog", "cat")  # a category without an object is none
    val["annotations"][0]["category_id"] = 9
    with pytest.raises(
        InputError,
        match=r"val\.json has the class 'cow', which .*train\.json lacks, so that no detector can learn it\. Add",
    ):
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
    "negative": (put(*BOX, [1, 1, 5, -5]), r"annotation 2 has bbox \[1, 1, 5, -5\], with a negative width or height"),
    "immense": (put(*BOX, [1, 1, 10**400, 5]), r"annotation 2 has bbox .*\. Make it four finite numbers"),
    "three numbers": (put(*BOX, [1, 1, 5]), r"annotation 2 has bbox \[1, 1, 5\]\. Make it four finite numbers"),
    "text": (put(*BOX, ["1", 1, 5, 5]), r"annotation 2 has bbox \['1', 1, 5, 5\]\. Make it four finite numbers"),
    "no box": (put(*BOX, None), r"annotation 2 has bbox None\. Make it four finite numbers"),
    "unknown image": (
        put("annotations", 0, "image_id", 99), r'annotation 1 has image_id 99, which is not in "images"\. Remove it or'
    ),
    "list as image": (put("annotations", 0, "image_id", []), r'annotation 1 has image_id \[\], which is not in "im'),
    "unknown category": (
        put("annotations", 0, "category_id", 99), r'annotation 1 has category_id 99, which is not in "categories"'
    ),
    "crowd": (put("annotations", 0, "iscrowd", 2), r"annotation 1 has iscrowd 2\. Make it 0 or 1"),
    "same annotation id": (put("annotations", 1, "id", 1), r"annotation 1 has the id of an earlier annotation"),
    "annotation id": (put("annotations", 1, "id", []), r"annotation number 1 has the id \[\]\. Make it an integer"),
    "ignore": (put("annotations", 0, "ignore", 3), r"annotation 1 has ignore 3\. Make it 0 or 1"),
    "no images": (put("images", []), r'"images" is empty\. Add at least one image'),
    "no classes": (put("categories", []), r'"categories" is empty\. Add at least one category'),
    "images no list": (put("images", {}), r'"images" is not a list of objects\. Export the annotations'),
    "images of numbers": (put("images", [1]), r'"images" is not a list of objects'),
    "same image id": (put("images", 0, "id", 3), r"image number 1 has the id 3 of an earlier one\. Give each imag"),
    "image id": (put("images", 1, "id", 1.5), r"image number 1 has the id 1\.5\. Make it an integer"),
    "same file": (put("images", 0, "file_name", "sub/a.jpg"), r"two images have the file_name 'sub/a\.jpg'\. Remove"),
    "no file name": (put("images", 0, "file_name", None), r"image 7 has the file_name None\. Name its file"),
    "no width": (put("images", 0, "width", 0), r"image 7 \('b\.jpg'\) has width 0\. Make it an integer of 1 to 26843"),
    "height text": (put("images", 0, "height", "80"), r"image 7 \('b\.jpg'\) has height '80'\. Make it an integer"),
    "same class": (put("categories", 0, "name", "dog"), r"two categories have the name 'dog'\. Rename one of them"),
    "class of don't-care": (put("categories", 0, "name", "dont_care"), r"category 20 has the name 'dont_care', under"),
    "no class name": (put("categories", 0, "name", ""), r"category 20 has the name ''\. Give it a name"),
    "class id": (put("categories", 0, "id", True), r"category number 0 has the id True\. Make it an integer"),
    "same class id": (put("categories", 0, "id", 5), r"category number 1 has the id 5 of an earlier one"),
    "climbs out": (
        put("images", 0, "file_name", "../train.json"),
        r"image 7 has the file_name '\.\./train\.json', which is not inside the image folder /",
    ),
    "absolute": (put("images", 0, "file_name", "/etc/hostname"), r"image 7 has the file_name '/etc/hostname', which i"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_is_named(read, name):
    change, message = BAD[name]
    content = good()
    change(content)
    with pytest.raises(InputError, match=r"/train\.json: " + message):
        read(content)


LEFT_OUT = "boxes left out, as none of their area is inside their image: 1, the first of annotation 2"
CLIPPED = "boxes clipped, as they reach beyond their image: 1, the first of annotation 2"


@pytest.mark.parametrize(
    ("box", "kept", "note"),
    [
        ([1, 1, 0, 5], None, LEFT_OUT),
        ([50, 1, 1e-9, 5], None, LEFT_OUT),
        ([200, 1, 5, 5], None, LEFT_OUT),
        ([90, 1, 20, 5], [90, 1, 100, 6], CLIPPED),
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
    assert reader.notes == [f"note: {tmp_path / 'train.json'}: {note}"]
    assert read(good()).notes == []
    content["annotations"][0]["bbox"] = box
    with pytest.raises(
        InputError,
        match=r"train\.json: 2 of 3 boxes do not lie inside their image: one is that of annotation 1\. Wr",
    ):
        read(content)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_key_is_named(read, key):
    content = good()
    del content[key]
    with pytest.raises(InputError, match=f'train.json: it has no key "{key}"; its keys are'):
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
    with pytest.raises(InputError, match='it holds a list, not an object with the keys "images", "annotations" and'):
        read("[]")


def test_a_link_out_of_the_folder_is_refused(read, tmp_path):
    """Also where the way back out of the link's own folder looks like one within the image folder."""
    os.symlink("/etc", tmp_path / "images/outside")
    content = good()
    content["images"][0]["file_name"] = "outside/../b.jpg"
    with pytest.raises(
        InputError, match=r"file_name 'outside/\.\./b\.jpg', which is not .*, as links lead to '/b\.jpg'"
    ):
        read(content)
    content["images"][0]["file_name"] = "outside/hostname"
    with pytest.raises(InputError, match=r"which is not inside the image folder .*, as links lead to '/etc/hostname'"):
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
    with pytest.raises(InputError, match="has control characters"):
        read(content)
    content = good()
    content["categories"][0]["name"] = name
    with pytest.raises(InputError, match="has control characters"):
        read(content)


@pytest.mark.parametrize(
    ("text", "rule"),
    [("NaN", "NaN is not a JSON number"), ('{"a": 1, "a": 2}', "has the key 'a' twice"), ("1" * 5000, "limit")],
)
def test_traps_of_json_are_refused(read, text, rule):
    with pytest.raises(InputError, match=rf"train\.json is not JSON: .*{rule}"):
        read(text)
