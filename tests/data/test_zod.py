"""ZodReader, through the real devkit, on demo data that is then damaged."""

import json
import shutil

import pytest

from isod.data.demo.zod_layout import write_demo
from isod.data.readers.base import FrameError
from isod.data.readers.zod import ZodReader
from isod.errors import InputError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("zod") / "root"
    write_demo(root, frames=5, seed=0)
    return root


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "root")


def annotation_file(root, number=0):
    return root / f"single_frames/{number:06d}/annotations/object_detection.json"


def annotate(root, *objects):
    """objects: (properties, points)."""
    annotation_file(root).write_text(
        json.dumps(
            [
                {
                    "geometry": {"type": "MultiPoint", "coordinates": points},
                    "properties": {"annotation_uuid": f"u{number}", "unclear": False, **properties},
                }
                for number, (properties, points) in enumerate(objects)
            ]
        )
    )


POINTS = [[10, 30], [20, 20], [30, 30], [20, 40]]  # the box 10, 20, 30, 40


def first_objects(root):
    return ZodReader(root, "mini").frames("train")[0].objects()


def test_frames_are_sorted_and_sized(root):
    reader = ZodReader(root, "mini")
    assert [ref.frame_id for ref in reader.frames("train")] == ["000000", "000001", "000002", "000003"]
    assert [ref.frame_id for ref in reader.frames("val")] == ["000004"]
    assert reader.frames("val")[0].size == (2168, 3848)
    assert reader.class_names == ("Pedestrian", "Vehicle", "VulnerableVehicle", "Animal")


def test_classes_by_hand(root):
    """Each class gets its number; unclear objects of any class are don't-care; static classes are left out."""
    annotate(
        root,
        ({"class": "Animal"}, POINTS),
        ({"class": "TrafficSign", "traffic_content_visible": "True"}, POINTS),
        ({"class": "Vehicle", "type": "Car"}, POINTS),
        ({"class": "Vehicle", "unclear": True}, POINTS),
        ({"class": "PoleObject"}, POINTS),
        ({"class": "Inconclusive"}, POINTS),
        ({"class": "Pedestrian"}, POINTS),
        ({"class": "VulnerableVehicle", "type": "Inconclusive"}, POINTS),
        ({"class": "VulnerableVehicle", "type": "Bicycle"}, POINTS),
    )
    objects = first_objects(root)
    assert objects.labels.tolist() == [4, 2, 0, 0, 1, 0, 3]
    assert objects.dont_care.tolist() == [False, False, True, True, False, True, False]
    assert objects.boxes.tolist() == [[10, 20, 30, 40]] * 7


def test_no_objects_is_a_background_frame(root):
    annotate(root)
    assert first_objects(root).boxes.shape == (0, 4)


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"geometry": {}}]', "{}}", "null", '"word"'])
def test_a_damaged_annotation_loses_the_frame(root, text):
    annotation_file(root).write_text(text)
    with pytest.raises(FrameError, match="annotation is damaged"):
        first_objects(root)


@pytest.mark.parametrize(
    "points",
    [[[10, 30], [10, 40]], [[float("nan"), 30], [30, float("nan")]], [[1, 1], [float("inf"), 9]], []],
    ids=["no area", "NaN", "infinite", "no points"],
)
def test_a_box_without_area_loses_the_frame(root, points):
    annotate(root, ({"class": "Animal"}, points))
    with pytest.raises(FrameError, match=r"annotation u0 has no area or is not finite"):
        first_objects(root)


def test_a_missing_annotation_loses_the_frame(root):
    annotation_file(root).unlink()
    with pytest.raises(FrameError, match="cannot be read: No such file"):
        first_objects(root)
    edit_trainval(root, lambda info: info["annotations"].clear())
    with pytest.raises(FrameError, match="no object_detection annotation"):
        first_objects(root)


def edit_trainval(root, change):
    path = root / "trainval-frames-mini.json"
    content = json.loads(path.read_text())
    for info in content["train"] + content["val"]:
        change(info)
    path.write_text(json.dumps(content))


def test_what_is_not_zod_says_so(root, tmp_path):
    with pytest.raises(InputError, match=r"there is no trainval-frames-full\.json in it"):
        ZodReader(root)
    with pytest.raises(InputError, match="does not hold ZOD"):
        ZodReader(tmp_path / "nowhere", "mini")
    with pytest.raises(InputError, match="version must be one of"):
        ZodReader(root, "huge")
    with pytest.raises(InputError, match="anonymization must be one of"):
        ZodReader(root, "mini", "none")
    with pytest.raises(InputError, match="no frame with a front camera image of anonymization 'dnat'"):
        ZodReader(root, "mini", "dnat")
    for text in ("", "[]", '{"train": [{}], "val": []}', '{"train": []}', "{"):
        (root / "trainval-frames-mini.json").write_text(text)
        with pytest.raises(InputError, match="devkit cannot read"):
            ZodReader(root, "mini")
