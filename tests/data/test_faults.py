"""Annotations known to be wrong: from the demo's list into the pixels of each crop, and out of the store again."""

import json
import shutil

import numpy as np
import pytest

from isod.cli.main import main
from isod.data.demo.zod_layout import TRUTH
from isod.data.faults import Fault
from isod.data.prepare.crop import faults_in_crops
from isod.data.prepare.job import prepare_demo
from isod.data.prepare.region import Region
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.zod import ZodReader
from isod.data.store.meta import FAULTS_FILE
from isod.data.store.split import CropStore
from isod.errors import InputError

ROI = Region(100, 50, 200, 150)


class Ref:
    frame_id, image_path, size = "f", "f.jpg", (300, 400)


def fault(place, *box):
    return Fault(place, "missing_box", box, "Animal", None)


def in_crops(faults, lost=(), **settings):
    found = faults_in_crops(faults, [Ref()] * 5, PrepareSettings(**settings), lost)
    assert all((item.kind, item.class_name, item.annotated_as) == ("missing_box", "Animal", None) for item in found)
    return [(item.index, item.box) for item in found]


def test_a_region_by_hand():
    inside = fault(3, 120.0, 60.0, 140.0, 80.0)  # moves by (−100, −50)
    half = fault(1, 80.0, 60.0, 120.0, 80.0)  # 20 of its 40 columns are inside: a share of 1/2
    outside = fault(2, 200.0, 60.0, 220.0, 80.0)  # begins where the region ends
    faults = [inside, half, outside]
    assert in_crops(faults, roi=ROI) == [(3, (20, 10, 40, 30)), (1, (0, 10, 20, 30))]
    assert in_crops(faults, roi=ROI, min_visible=0.51) == [(3, (20, 10, 40, 30))]
    assert in_crops(faults, roi=ROI, resize=(50, 200)) == [(3, (10, 20, 20, 60)), (1, (0, 20, 10, 60))]
    assert in_crops(faults, roi=ROI, lost=[3]) == [(1, (0, 10, 20, 30))]
    assert in_crops([half]) == [(1, (80, 60, 120, 80))]  # no region: the whole image of 400×300


def test_tiles_by_hand():
    """Two tiles of 200×300 side by side; of the second box 60 of 80 columns are in the right one, 20 in the left."""
    left, across = fault(2, 10.0, 10.0, 30.0, 20.0), fault(4, 180.0, 10.0, 260.0, 20.0)
    assert in_crops([left, across], tiles=(2, 1)) == [
        (4, (10, 10, 30, 20)), (8, (180, 10, 200, 20)), (9, (0, 10, 60, 20))
    ]  # fmt: skip
    assert in_crops([across], tiles=(2, 1), min_visible=0.5) == [(9, (0, 10, 60, 20))]
    assert in_crops([across], tiles=(2, 1), lost=[8]) == [(9, (0, 10, 60, 20))]


def test_frames_too_small_for_their_tiles_are_lost_and_left_out():
    assert in_crops([fault(0, 1.0, 1.0, 2.0, 2.0)], tiles=(1, 301), lost=range(301)) == []


def test_the_demo_s_faults_lie_on_the_crops(tiny_store, demo_root):
    """Every fault of the truth file is one in the rows of the store, an eighth of its size."""
    crops = CropStore.open(tiny_store).split("train")
    rows, names = crops.annotations(), CropStore.open(tiny_store).meta.class_names
    faults = crops.known_faults()
    truth = json.loads((demo_root / TRUTH).read_text())["faults"]
    assert len(faults) == len(truth) > 5
    assert {item.kind for item in faults} == {"wrong_class", "missing_box"}
    for item, entry in zip(faults, truth, strict=True):
        assert rows.frame_ids[item.index] == entry["frame_id"]
        assert (item.kind, item.class_name, item.annotated_as) == (
            entry["kind"], entry["class"], entry["annotated_as"]
        )  # fmt: skip
        np.testing.assert_allclose(item.box, (np.array(entry["box"]) - [1284, 892, 1284, 892]) / 8, atol=1e-3)
        at = [n for box, n in zip(rows.boxes[item.index], rows.labels[item.index], strict=True)
              if np.allclose(box, item.box)]  # fmt: skip
        assert [names[n - 1] for n in at] == ([] if item.kind == "missing_box" else [item.annotated_as])
    wrong = crops.wrong_examples()
    assert wrong.shape == (64,)
    assert wrong.dtype == bool
    frames = {entry["frame_id"] for entry in truth}
    assert wrong.tolist() == [frame_id in frames for frame_id in rows.frame_ids]


def test_validation_rows_are_right(tiny_store):
    crops = CropStore.open(tiny_store).split("val")
    assert crops.known_faults() == []
    assert crops.wrong_examples().tolist() == [False] * 16


def copy_of(store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    return tmp_path / "store"


def test_a_store_without_the_file_does_not_know(tiny_store, tmp_path):
    store = copy_of(tiny_store, tmp_path)
    (store / FAULTS_FILE).unlink()
    crops = CropStore.open(store).split("train")
    assert crops.known_faults() is None
    assert crops.wrong_examples() is None


@pytest.mark.parametrize("damage", ["{", '{"faults": 3}', '{"faults": [{"split": "train", "index": 64}]}', "past"])
def test_a_damaged_file_says_so(tiny_store, tmp_path, damage):
    store = copy_of(tiny_store, tmp_path)
    content = json.loads((store / FAULTS_FILE).read_text())
    content["faults"][0]["index"] = 64
    (store / FAULTS_FILE).write_text(json.dumps(content) if damage == "past" else damage)
    with pytest.raises(InputError, match=r"faults\.json is damaged"):
        CropStore.open(store).split("train").wrong_examples()


def test_demo_data_without_its_list(demo_root, tmp_path, capsys):
    """No list: the store does not know. A damaged one: refused before anything is cut."""
    root = tmp_path / "zod"
    shutil.copytree(demo_root, root)
    (root / TRUTH).write_text('{"faults": [{}]}')
    assert main(["prepare", "zod", str(root), str(tmp_path / "store"), "--version", "mini"]) == 2
    error = capsys.readouterr().err
    assert "isod-demo-truth.json is damaged" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "store").exists()
    (root / TRUTH).unlink()
    assert ZodReader(root, "mini").known_faults("train") is None
    prepare_demo(root, str(tmp_path / "store"), resize=(160, 48), map_chunks=map)
    assert not (tmp_path / "store" / FAULTS_FILE).exists()
