"""What a prediction leaves on disk, read by hand and by pycocotools."""

import json

import numpy as np
from pycocotools.coco import COCO

from isod.data.prepare.crop import Frame
from isod.data.prepare.decode import Decoded
from isod.inference.sources import NamedFrame
from isod.inference.tiles import Detections
from isod.inference.writers import CocoJson, YoloText, draw

PIXELS = np.full((100, 200, 3), 60, np.uint8)
FOUND = Detections(
    np.array([[20, 10, 60, 50], [100, 0, 200, 100]], np.float32), np.array([0.9, 0.25], np.float32), np.array([2, 1])
)
NONE = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def item(name, number):
    return NamedFrame(name, f"{name}.jpg", number, Frame("", b"", Decoded(PIXELS, (100, 200), False)))


def test_yolo_text(tmp_path):
    for confidence in (False, True):
        writer = YoloText(tmp_path / str(confidence), confidence=confidence)
        writer.write(item("day/1", 1), FOUND)
        writer.write(item("2", 2), NONE)
        writer.close()
    assert (tmp_path / "False/day/1.txt").read_text() == (
        "1 0.200000 0.300000 0.200000 0.400000\n0 0.750000 0.500000 0.500000 1.000000\n"
    )
    assert (tmp_path / "True/day/1.txt").read_text().splitlines()[0].split()[5] == "0.900000"
    assert (tmp_path / "True/2.txt").read_text() == ""


def test_coco_results_are_what_pycocotools_loads(tmp_path):
    writer = CocoJson(tmp_path / "predictions.json")
    writer.write(item("a", 1), FOUND)
    writer.write(item("b", 2), NONE)
    writer.close()
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [],
        "categories": [{"id": 1}, {"id": 2}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "predictions.json")).anns
    assert [(a["image_id"], a["category_id"], a["bbox"], a["score"]) for a in loaded.values()] == [
        (1, 2, [20, 10, 40, 40], 0.9), (1, 1, [100, 0, 100, 100], 0.25),
    ]  # fmt: skip
    assert json.loads((tmp_path / "predictions.json").read_text())[0]["file_name"] == "a.jpg"


def test_a_picture_shows_boxes_where_they_are():
    """The frame is enlarged six times, to 1200 columns; the key below it adds rows, and without boxes there is none."""
    picture = np.asarray(draw(PIXELS, FOUND, ("car", "большой грузовик")))
    assert picture.shape[1] == 1200
    assert picture.shape[0] > 600
    edges = [picture[60, 240], picture[180, 120], picture[180, 360]]  # of the first box: top, left, right
    assert all(edge.tolist() == edges[0].tolist() != [60, 60, 60] for edge in edges)
    assert picture[180, 240].tolist() == [60, 60, 60]
    assert np.asarray(draw(PIXELS, NONE, ("car", "bus"))).shape == (600, 1200, 3)


def test_words_that_find_no_place_are_left_out():
    crowd = Detections(np.tile(np.array([[90, 40, 110, 60]], np.float32), (40, 1)), np.full(40, 0.5), np.ones(40, int))
    assert draw(PIXELS, crowd, ("car",)).width == 1200
