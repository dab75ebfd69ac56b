"""The readers beside labelformat, which reads and writes the same formats: what the one writes, the other reads."""

import shutil

import numpy as np
import pytest

from isod.data.readers.coco import CocoReader
from isod.data.readers.kitti import KittiReader
from isod.data.readers.voc import VocReader
from isod.data.readers.yolo import YoloReader
from tests.data import written_formats as written
from tests.data.written_formats import CLASSES, HEIGHT, WIDTH

formats = pytest.importorskip("labelformat.formats", reason="labelformat is not installed")
detection = pytest.importorskip("labelformat.model.object_detection", reason="labelformat is not installed")

NAMES = ",".join(CLASSES)
# what labelformat reads of a set that ``written_formats`` has written
INPUTS = {
    "coco": lambda root: formats.COCOObjectDetectionInput(root / "train.json"),
    "yolo": lambda root: formats.YOLOv8ObjectDetectionInput(root / "data.yaml", "train"),
    "voc": lambda root: formats.PascalVOCObjectDetectionInput(root / "Annotations", NAMES),
    "kitti": lambda root: formats.KittiObjectDetectionInput(root / "training/label_2", NAMES, "../image_2"),
}
# where labelformat writes, and the folder of the images beside it
OUTPUTS = {
    "coco": (lambda root: formats.COCOObjectDetectionOutput(root / "train.json"), "images"),
    "yolo": (lambda root: formats.YOLOv8ObjectDetectionOutput(root / "data.yaml", "train"), "images"),
    "voc": (lambda root: formats.PascalVOCObjectDetectionOutput(root / "Annotations"), "JPEGImages"),
    "kitti": (lambda root: formats.KittiObjectDetectionOutput(root / "labels"), "images"),
}
READERS = {
    "coco": lambda root: CocoReader((root / "images", root / "train.json")),
    "yolo": YoloReader,
    "voc": VocReader,
    "kitti": KittiReader,
}
WRITERS = {name: getattr(written, f"write_{name}") for name in READERS}


def by_isod(reader):
    """File name → sorted (class, box)."""
    found = {}
    for frame in reader.frames("train"):
        objects = frame.objects()
        names = [reader.class_names[label - 1] for label in objects.labels.tolist()]
        found[frame.frame_id] = sorted(zip(names, map(tuple, objects.boxes.tolist()), strict=True))
    return found


def by_labelformat(source):
    """Likewise; boxes are clipped to their image here, as labelformat leaves them as they are."""
    found = {}
    for item in source.get_labels():
        limit = np.array([item.image.width, item.image.height] * 2)
        boxes = [np.clip([o.box.xmin, o.box.ymin, o.box.xmax, o.box.ymax], 0, limit).tolist() for o in item.objects]
        names = [o.category.name for o in item.objects]
        found[item.image.filename] = sorted(zip(names, map(tuple, boxes), strict=True))
    return found


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, objects in expected.items():
        assert [label for label, _ in found[name]] == [label for label, _ in objects]
        assert np.allclose([box for _, box in found[name]], [box for _, box in objects], atol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_both_read_the_same(tmp_path, name):
    """One split, as labelformat knows none in VOC and KITTI. Of YOLO it leaves out images without a label file."""
    WRITERS[name](tmp_path, {"train": written.made_set(12, 0)["train"]})
    found, expected = by_isod(READERS[name](tmp_path)), by_labelformat(INPUTS[name](tmp_path))
    if name == "yolo":
        assert found.pop("000001.jpg") == []
    assert len(expected) == 12 - (name == "yolo")
    same(found, expected)


@pytest.mark.parametrize("name", READERS)
def test_what_labelformat_writes_is_read(tmp_path, name):
    """From a COCO json to the format by labelformat, and back by isod."""
    source = tmp_path / "source"
    written.write_coco(source, {"train": written.made_set(12, 0)["train"]})
    make, images = OUTPUTS[name]
    root = tmp_path / "set"
    root.mkdir()
    make(root).save(INPUTS["coco"](source))
    shutil.copytree(source / "images", root / images)
    reader = READERS[name](root)
    assert reader.class_names == CLASSES
    expected = by_isod(CocoReader((source / "images", source / "train.json")))
    assert sum(map(len, expected.values())) == 33
    assert max(box[2] for objects in expected.values() for _, box in objects) == WIDTH
    assert max(box[3] for objects in expected.values() for _, box in objects) <= HEIGHT
    same(by_isod(reader), expected)
