"""Demo data: the real devkit opens it, it is what it says, and it does not change."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import simplejpeg
import zod
from zod.constants import AnnotationProject, Anonymization

from isod.data.demo.scene import CLASS_NAMES, RARE, VEHICLE, DemoSettings, render_far_region, split_of
from isod.data.demo.zod_layout import MARKER, TRUTH, is_demo, write_demo
from isod.data.prepare.region import FAR
from isod.data.readers.zod import ZodReader
from isod.errors import InputError

SETTINGS = DemoSettings()


def test_the_devkit_opens_it(demo_root):
    frames = zod.ZodFrames(str(demo_root), "mini")
    assert (len(frames.get_split("train")), len(frames.get_split("val"))) == (64, 16)
    frame = frames["000007"]
    assert frame.get_image(Anonymization.BLUR).shape == (2168, 3848, 3)
    assert frame.metadata.country_code == "demo"
    assert all(item.name in zod.anno.object.OBJECT_CLASSES for item in frame.get_annotation(OBJECTS))
    assert {item.subclass for item in frame.get_annotation(OBJECTS)}  # raises where a property is missing
    assert not (demo_root / "single_frames/000007/camera_front_dnat").exists()


OBJECTS = AnnotationProject.OBJECT_DETECTION


def test_frames_show_what_render_far_region_says(demo_root):
    """Up to JPEG: of 256 grey levels, the mean difference is below 4."""
    reader = ZodReader(demo_root, "mini")
    for split in ("train", "val"):
        for ref in reader.frames(split)[:5]:
            far = render_far_region(SETTINGS, 0, int(ref.frame_id))
            with open(ref.image_path, "rb") as file:
                image = simplejpeg.decode_jpeg(file.read())
            assert np.abs(FAR.cut(image).astype(int) - far.image).mean() < 4
            objects = ref.objects()
            inside = [tuple(box) for box in (objects.boxes - [FAR.x0, FAR.y0, FAR.x0, FAR.y0]).tolist()
                      if 0 <= box[0] < FAR.width and 0 <= box[1] < FAR.height]  # fmt: skip
            assert inside == [tuple(box) for box in far.boxes.tolist()]
            assert objects.labels[: len(far.labels)].tolist() == far.labels.tolist()
            assert objects.dont_care[: len(far.labels)].tolist() == far.dont_care.tolist()


def test_faults_are_on_record(demo_root):
    """Every fault in the truth file is a fault in the annotation, and only training frames have any."""
    reader = ZodReader(demo_root, "mini")
    refs = {ref.frame_id: ref for ref in reader.frames("train")}
    faults = json.loads((demo_root / TRUTH).read_text())["faults"]
    assert {fault["kind"] for fault in faults} == {"wrong_class", "missing_box"}
    for fault in faults:
        objects = refs[fault["frame_id"]].objects()
        found = [CLASS_NAMES[label - 1] for box, label in zip(objects.boxes.tolist(), objects.labels, strict=True)
                 if box == fault["box"]]  # fmt: skip
        assert found == ([] if fault["kind"] == "missing_box" else [fault["annotated_as"]])
        assert fault["annotated_as"] != fault["class"]


def test_it_is_the_planted_problem():
    """Shares over 500 frames, as DemoSettings promises them."""
    count = {split: dict.fromkeys(("frames", "vehicle", "rare"), 0) for split in ("train", "val")}
    objects = {label: 0 for label in range(1, 5)}
    wrong = {True: [], False: []}  # by whether the object is a Vehicle
    missing = []
    for i in range(500):
        split, truth = split_of(SETTINGS, i), render_far_region(SETTINGS, 3, i).truth
        seen = {item.label for item in truth if not item.dont_care}
        count[split]["frames"] += 1
        count[split]["vehicle"] += VEHICLE in seen
        count[split]["rare"] += bool(seen & set(RARE))
        if split == "val":
            assert all(item.fault is None for item in truth)
            continue
        for item in truth:
            if not item.dont_care:
                objects[item.label] += 1
                wrong[item.label == VEHICLE].append(item.fault == "wrong_class")
                missing.append(item.fault == "missing_box")
    assert (count["train"]["frames"], count["val"]["frames"]) == (400, 100)
    assert count["train"]["rare"] == pytest.approx(0.05 * 400, abs=0)
    assert count["val"]["rare"] == pytest.approx(0.5 * 100, abs=1)
    assert count["train"]["vehicle"] == pytest.approx(0.8 * 400, abs=30)
    assert objects[4] < objects[3] < objects[1] < objects[2] / 5  # Animal is the rarest
    assert objects[4] >= 8
    for found, promised in ((wrong[False], 0.06), (wrong[True], 0.01)):  # 5 of 67 and 8 of 572
        low, high = scipy.stats.binom(len(found), promised).interval(0.99)
        assert max(low, 1) <= sum(found) <= high
    assert np.mean(missing) == pytest.approx(0.06, abs=0.03)  # three standard deviations of some 640 objects


def test_objects_lie_inside_the_region_and_rare_ones_alone():
    rare = 0
    for i in range(4, 200, 5):
        far = render_far_region(SETTINGS, 1, i)
        assert (far.boxes[:, :2] >= 0).all()
        assert (far.boxes[:, 2] <= FAR.width).all()
        assert (far.boxes[:, 3] <= FAR.height).all()
        assert (far.boxes[:, 2:] > far.boxes[:, :2]).all()
        for item in far.truth:
            if item.label in RARE:
                others = np.array([other.box for other in far.truth if other is not item]).reshape(-1, 4)
                shared = np.minimum(others[:, 2:], item.box[2:]) - np.maximum(others[:, :2], item.box[:2])
                assert (shared.min(axis=1) <= 0).all()
                rare += 1
    assert rare > 10


def test_a_frame_depends_on_seed_and_number_alone():
    one, again, other = (render_far_region(SETTINGS, seed, 9) for seed in (0, 0, 1))
    assert np.array_equal(one.image, again.image)
    assert one.truth == again.truth
    assert not np.array_equal(one.image, other.image)


def digest(root):
    names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.name != MARKER)
    return {str(name): hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}


def test_same_seed_same_bytes_and_an_interrupted_call_goes_on(tmp_path):
    write_demo(tmp_path / "whole", frames=6, seed=5)
    with pytest.raises(RuntimeError, match="stop"):
        write_demo(tmp_path / "halves", frames=6, seed=5, progress=stop)
    assert not (tmp_path / "halves/trainval-frames-mini.json").exists()
    calls = []
    write_demo(tmp_path / "halves", frames=6, seed=5, progress=calls.append)
    assert digest(tmp_path / "halves") == digest(tmp_path / "whole")
    assert sum(calls) == 6
    write_demo(tmp_path / "halves", frames=6, seed=5, progress=stop)  # complete: does nothing


def test_a_disk_that_is_full_at_the_start_does_not_lock_the_folder(small_disk):
    disk, resize = small_disk
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    with pytest.raises(InputError, match=r"cannot write demo data to .*: No space left"):
        write_demo(disk / "demo", frames=1)
    (disk / "filler").unlink()
    resize("64m")
    write_demo(disk / "demo", frames=1)
    assert is_demo(disk / "demo")


def stop(count):
    raise RuntimeError("stop")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_demo(tmp_path, frames=5)
    with pytest.raises(InputError, match="not empty"):
        write_demo(tmp_path / "mine.txt", frames=5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    write_demo(tmp_path / "demo", frames=1)
    with pytest.raises(InputError, match="another seed"):
        write_demo(tmp_path / "demo", frames=1, seed=1)
    with pytest.raises(InputError, match="1…999999"):
        write_demo(tmp_path / "none", frames=0)


def test_it_says_that_it_is_a_stand_in(demo_root):
    assert is_demo(demo_root)
    assert "NOT the Zenseact Open Dataset" in (demo_root / "README.txt").read_text()
    assert ZodReader(demo_root, "mini").demo


def test_settings_are_checked():
    with pytest.raises(InputError, match="rare_frames_train must be in"):
        replace(SETTINGS, rare_frames_train=1.5)
    with pytest.raises(InputError, match="rare_size must be"):
        replace(SETTINGS, rare_size=(9, 5))
