"""The prepare job: complete, resumable, never stopped by a bad frame, and clear about bad input."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from isod.cli.main import main
from isod.data.demo.scene import DemoSettings, render_far_region
from isod.data.prepare import chunk as chunk_module
from isod.data.prepare import job
from isod.data.prepare.chunk import process_chunk
from isod.data.prepare.crop import make_rows
from isod.data.prepare.job import prepare
from isod.data.prepare.journal import Chunk
from isod.data.prepare.region import FAR, Region
from isod.data.prepare.report import format_counts
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import FrameError, file_error
from isod.data.readers.coco import CocoReader
from isod.data.readers.zod import ZodReader
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.files import LOCK_FILE, folder_lock

SHARED = Path(__file__).parents[3] / "shared" / "data"
CHUNKED = PrepareSettings(chunk_frames=3)


def flat(index, height=20, width=30):
    return np.full((height, width, 3), 5 * index, dtype=np.uint8)


@pytest.fixture
def coco(tmp_path):
    """A COCO set: 10 train and 4 val images of 30×20, image i of grey level 5·i with a box of i+1 columns."""
    (tmp_path / "images").mkdir()
    start = 0
    for split, count in (("train", 10), ("val", 4)):
        content = {"categories": [{"id": 1, "name": "car"}], "images": [], "annotations": []}
        for i in range(start, start + count):
            (tmp_path / f"images/{i}.jpg").write_bytes(simplejpeg.encode_jpeg(flat(i)))
            content["images"].append({"id": i, "file_name": f"{i}.jpg", "width": 30, "height": 20})
            content["annotations"].append(
                {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, i + 1, 4], "iscrowd": int(i == 2)}
            )
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        start += count
    return tmp_path


def reader_of(root):
    return CocoReader(*((root / "images", root / f"{split}.json") for split in ("train", "val")))


def run(root, store="store", settings=CHUNKED, map_chunks=map):
    return prepare(reader_of(root), str(root / store), settings, progress=False, map_chunks=map_chunks)


def grey(store, split, indices):
    crops = CropStore.open(store).split(split).read(indices)
    return np.rint(crops.images[:, 5, 5, 0] / 5).astype(int).tolist()


def test_demo_data_end_to_end(tiny_store, demo_root):
    """Every crop is the far region of its own frame, at an eighth, and says that it is demo data."""
    store = CropStore.open(tiny_store)
    assert store.meta.demo
    assert store.meta.crop_size == (48, 160)
    assert store.meta.class_names == ("Pedestrian", "Vehicle", "VulnerableVehicle", "Animal")
    for split in ("train", "val"):
        crops, rows = store.split(split), store.split(split).annotations()
        assert rows.frame_ids == [ref.frame_id for ref in ZodReader(demo_root, "mini").frames(split)]
        got = crops.read(range(0, len(crops), 5))
        for place, index in enumerate(got.indices):
            far = render_far_region(DemoSettings(), 0, int(rows.frame_ids[index]))
            small = far.image.reshape(48, 8, 160, 8, 3).mean((1, 3))
            assert np.abs(got.images[place] - small).mean() < 6
            np.testing.assert_allclose(got.objects.of(place)[0], far.boxes / 8)
            assert got.objects.of(place)[1].tolist() == far.labels.tolist()
            assert got.objects.of(place)[2].tolist() == far.dont_care.tolist()


def test_counts_are_those_of_the_rows(tiny_store):
    meta = CropStore.open(tiny_store).meta
    for split in ("train", "val"):
        labels = np.concatenate(CropStore.open(tiny_store).split(split).annotations().labels)
        for label, name in enumerate(("dont_care", *meta.class_names)):
            assert sum(meta.counts[split][name].values()) == (labels == label).sum()
    text = format_counts(meta)
    assert "DEMO DATA" in text
    vehicles = meta.counts["train"]["Vehicle"], meta.counts["val"]["Vehicle"]
    assert f"{vehicles[0]['large']} ({vehicles[1]['large']})" in text


def test_a_coco_set(coco):
    report = run(coco)
    store = str(coco / "store")
    assert grey(store, "train", [9, 0, 3]) == [9, 0, 3]
    assert grey(store, "val", [3, 0]) == [13, 10]
    meta = CropStore.open(store).meta
    # 20×30 = 600 pixels: small below 1.98, large above 18 pixels. Box i has 4·(i+1): 4…16 medium, 20…40 large.
    assert meta.counts["train"] == {
        "car": {"small": 0, "medium": 3, "large": 6},
        "dont_care": {"small": 0, "medium": 1, "large": 0},
    }
    assert "every frame was read" in str(report)
    assert sorted(os.listdir(store)) == ["store.json", "train.lance", "val.lance"]
    assert CropStore.open(store).split("train").read_encoded([4]) == [(coco / "images/4.jpg").read_bytes()]
    again = run(coco)
    assert again.complete_before
    assert "complete already" in str(again)


def test_a_bad_frame_stops_nothing(coco):
    (coco / "images/1.jpg").unlink()
    (coco / "images/4.jpg").write_bytes((coco / "images/4.jpg").read_bytes()[:400])
    (coco / "images/5.jpg").write_bytes(simplejpeg.encode_jpeg(flat(5, 10, 10)))
    (coco / "images/12.jpg").write_text("not an image")
    report = run(coco)
    split = CropStore.open(str(coco / "store")).split("train")
    assert sorted(split.lost) == [1, 4, 5]
    assert split.readable.tolist() == [0, 2, 3, 6, 7, 8, 9]
    assert grey(str(coco / "store"), "train", [9, 0, 6]) == [9, 0, 6]
    text = str(report)
    assert "4 frames could not be read" in text
    assert "train 1: its image" in text
    assert "No such file" in text
    assert "train 4: its image" in text
    assert "has 10×10 pixels, but its annotation says 30×20" in text
    assert "val 2: its image" in text


def interrupted(coco, which):
    """Press Ctrl-C when these chunks are done."""

    def some_then_stop(work, chunks):
        yield from map(work, chunks[which])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(coco, map_chunks=some_then_stop)


def test_an_interrupted_job_goes_on(coco):
    whole = run(coco, "whole")
    interrupted(coco, slice(1, 3))
    with pytest.raises(InputError, match="not a crop store"):
        CropStore.open(str(coco / "store"))
    with pytest.raises(InputError, match=r"unfinished crop store .*resize was None and is now \[15, 10\]"):
        run(coco, settings=replace(CHUNKED, resize=(15, 10)))
    report = run(coco, settings=PrepareSettings())  # keeps the chunks that it began with
    assert report.resumed == 2
    assert replace(report.meta, checksums=whole.meta.checksums) == whole.meta  # Lance names its files at random
    assert grey(str(coco / "store"), "train", range(10)) == list(range(10))


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_chunk_whose_file_did_not_survive_is_made_again(coco, damage):
    """As after a power cut: its journal entry is there, and what it speaks of is not."""
    interrupted(coco, slice(2))
    file = next((coco / "store/train.lance/data").iterdir())
    if damage == "gone":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size // 2)
    assert run(coco).resumed == 1
    assert grey(str(coco / "store"), "train", range(10)) == list(range(10))


def test_two_jobs_do_not_make_one_store(coco):
    (coco / "store").mkdir()
    with (
        folder_lock(coco / "store"),
        pytest.raises(InputError, match=rf"process {os.getpid()} on .* is writing to .*store: wait until it has ended"),
    ):
        run(coco)
    assert not run(coco).complete_before
    assert not (coco / "store" / LOCK_FILE).exists()


def test_a_file_that_cannot_be_opened_for_now_is_no_lost_frame(coco):
    """No more files may be open: the job stops, in place of losing all that it reads until that has passed."""
    (ref, *_) = reader_of(coco).frames("train")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(
            InputError, match=r"0\.jpg cannot be read \(Too many open files\): fix that, or remove the file"
        ):
            make_rows(ref, 0, CHUNKED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert make_rows(ref, 0, CHUNKED)[0].error is None


def test_a_bad_sector_loses_the_frame_alone(tmp_path):
    """And a share that has gone, with the folder, does not."""
    error = OSError(errno.EIO, "Input/output error")
    (tmp_path / "a.jpg").touch()
    assert isinstance(file_error("its image", str(tmp_path / "a.jpg"), error), FrameError)
    assert isinstance(file_error("its image", str(tmp_path / "gone/a.jpg"), error), InputError)


def test_what_keeps_a_worker_from_writing_is_said_in_a_sentence(coco):
    chunk = Chunk("train", 0, 0, reader_of(coco).frames("train")[:3])
    (coco / "store").mkdir()
    (coco / "store/_prepare").write_text("in the way")
    status = process_chunk(str(coco / "store"), chunk, class_names=["car"], settings=CHUNKED)
    assert re.match(r"cannot write to \S+store \(.*\): fix that and run the same command again", status.failure)


def test_crops_that_differ_too_much_in_shape_are_refused(coco, monkeypatch):
    """Each has 600 pixels; padded to the tallest and the widest they would have 900."""
    content = json.loads((coco / "train.json").read_text())
    content["images"][3] |= {"width": 20, "height": 30}
    (coco / "train.json").write_text(json.dumps(content))
    (coco / "images/3.jpg").write_bytes(simplejpeg.encode_jpeg(flat(3, 30, 20)))
    monkeypatch.setattr(job, "MAX_PIXELS", 899)
    with pytest.raises(
        InputError, match=r"up to 30 rows and up to 30 columns, .* 899 pixels: use --resize or --roi to make"
    ):
        run(coco)
    monkeypatch.setattr(job, "MAX_PIXELS", 900)
    assert run(coco).meta.crop_size == (30, 30)


class WithoutVal(CocoReader):
    def frames(self, split):
        return [] if split == "val" else super().frames(split)


def test_a_split_without_frames_is_refused_before_anything_is_cut(coco):
    reader = WithoutVal(*((coco / "images", coco / f"{split}.json") for split in ("train", "val")))
    with pytest.raises(InputError, match="split 'val' of the dataset has no frames"):
        prepare(reader, str(coco / "store"), CHUNKED, progress=False, map_chunks=map)
    assert not (coco / "store").exists()


def test_what_the_reader_notes_is_in_the_report(coco):
    content = json.loads((coco / "val.json").read_text())
    content["annotations"][0]["bbox"] = [3, 3, 0, 0]
    (coco / "val.json").write_text(json.dumps(content))
    assert f"note: {coco / 'val.json'}: boxes left out" in str(run(coco))
    assert f"note: {coco / 'val.json'}: boxes left out" in str(run(coco))  # the store is complete


def test_a_chunk_cut_off_in_the_middle_leaves_no_trace(coco, monkeypatch):
    """Fragments without a journal entry are written again, and their files go at the end."""

    def no_entries(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(chunk_module, "write_text", no_entries)
    with pytest.raises(KeyboardInterrupt):
        run(coco)
    assert len(os.listdir(coco / "store/train.lance/data")) == 1
    monkeypatch.undo()
    run(coco)
    assert len(os.listdir(coco / "store/train.lance/data")) == 4  # chunks of 3, 3, 3 and 1
    assert grey(str(coco / "store"), "train", range(10)) == list(range(10))


def test_other_settings_or_data_are_refused(coco):
    run(coco)
    before = (coco / "store/store.json").read_bytes()
    with pytest.raises(InputError, match=r"finished crop store .*roi was None and is now \[0, 0, 9, 9\]"):
        run(coco, settings=PrepareSettings(roi=Region(0, 0, 9, 9)))
    content = json.loads((coco / "train.json").read_text())
    content["annotations"].pop()
    (coco / "train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="dataset was"):
        run(coco)
    assert (coco / "store/store.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(coco):
    with pytest.raises(InputError, match="not empty and holds no crop store"):
        run(coco, "images")
    with pytest.raises(InputError, match="is a file"):
        run(coco, "train.json")
    with pytest.raises(InputError, match="cannot write to"):
        run(coco, "train.json/store")
    assert len(os.listdir(coco / "images")) == 14


def test_no_readable_frame_at_all(coco):
    for i in range(10, 14):
        (coco / f"images/{i}.jpg").write_text("not an image")
    with pytest.raises(InputError, match=r"none of the 4 frames of split 'val' can be read; the first one: .*10\.jpg"):
        run(coco)
    for i in range(10, 14):
        (coco / f"images/{i}.jpg").write_bytes(simplejpeg.encode_jpeg(flat(i)))
    again = run(coco)
    assert again.meta.lost == {"train": {}, "val": {}}
    assert again.resumed == 4  # the chunks of the other split


def test_the_store_may_be_an_address(coco):
    uri = (coco / "store").as_uri()
    prepare(reader_of(coco), uri, CHUNKED, progress=False, map_chunks=map)
    assert grey(uri, "val", [2]) == [12]
    with pytest.raises(InputError, match="not an address that can be opened"):
        prepare(reader_of(coco), "nonsense://x/y", CHUNKED, progress=False, map_chunks=map)


def test_a_full_disk_keeps_what_is_done(coco, small_disk):
    """Crops of 200 kB of noise on a disk of 1 MB; freeing space (here: a ballast file) lets the job go on."""
    disk, resize = small_disk
    rng = np.random.default_rng(0)
    for i in range(14):
        noise = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        jpeg = simplejpeg.encode_jpeg(noise, quality=90)
        ballast = b"\xff\xfe\xff\xff" + rng.bytes(65533)  # a JPEG comment
        (coco / f"images/{i}.jpg").write_bytes(jpeg[:2] + ballast + jpeg[2:])
    (disk / "ballast").write_bytes(bytes(600_000))
    with pytest.raises(InputError, match=r"disk that holds .* is full: free some space"):
        prepare(reader_of(coco), str(disk / "store"), CHUNKED, progress=False, map_chunks=map)
    (disk / "ballast").unlink()
    resize("8m")
    report = prepare(reader_of(coco), str(disk / "store"), CHUNKED, progress=False, map_chunks=map)
    assert report.resumed >= 1
    assert len(CropStore.open(str(disk / "store")).split("train").read(range(10)).images) == 10


def test_the_command_line(coco, capsys):
    arguments = ["prepare", "coco", str(coco / "store"), "--resize", "15", "10"]
    for split in ("train", "val"):
        arguments += [f"--{split}", str(coco / "images"), str(coco / f"{split}.json")]
    assert main(arguments) == 0
    assert "10 train + 4 val crops of 15×10" in capsys.readouterr().out
    assert main([*arguments, "--roi", "5", "0", "5", "9"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("isod: a region of interest is X0 Y0 X1 Y1")
    assert error.count("\n") == 1
    assert main(["prepare", "zod", str(coco), str(coco / "new")]) == 2
    assert "does not hold ZOD Frames 'full'" in capsys.readouterr().err
    assert not (coco / "new").exists()


def test_zod_defaults_to_the_far_region(demo_root, tmp_path):
    root = tmp_path / "zod"
    shutil.copytree(demo_root, root)
    listing = root / "trainval-frames-mini.json"
    content = json.loads(listing.read_text())
    content["train"], content["val"] = content["train"][:3], content["val"][:2]
    content["train"][1]["annotations"] = {}
    content["train"].append(content["train"][0] | {"id": "000900", "camera_frames": {}})
    listing.write_text(json.dumps(content))
    assert main(["prepare", "zod", str(root), str(tmp_path / "store"), "--version", "mini"]) == 0
    store = CropStore.open(str(tmp_path / "store"))
    assert store.meta.crop_size == (FAR.height, FAR.width) == (384, 1280)
    assert store.split("train").lost == {
        1: "it has no object_detection annotation",
        3: "the dataset lists no image for it",
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the repository")
def test_a_slice_of_the_shared_traffic_set(tmp_path):
    paths = []
    for split in ("train", "val"):
        content = json.loads((SHARED / f"traffic/{split}.json").read_text())
        content["images"] = content["images"][::200]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        paths.append((SHARED / "traffic/images", tmp_path / f"{split}.json"))
    report = prepare(CocoReader(*paths), tmp_path / "store", PrepareSettings(resize=(256, 144)), progress=False)
    assert report.meta.rows == {"train": 16, "val": 5}
    assert report.meta.lost == {"train": {}, "val": {}}
    assert report.meta.crop_size == (144, 256)
    assert len(report.meta.class_names) == 7


@pytest.mark.slow
def test_killed_and_run_again(demo_root, tmp_path):
    """A real kill -9 in the middle, then the same command: the same store as in one go."""
    program = (
        "import sys; from isod.data.prepare.job import prepare; from isod.data.readers.zod import ZodReader\n"
        "from isod.data.prepare.settings import PrepareSettings; from isod.data.prepare.region import FAR\n"
        "s = PrepareSettings(roi=FAR, resize=(160, 48), chunk_frames=2)\n"
        "print(prepare(ZodReader(sys.argv[1], 'mini'), sys.argv[2], s, progress=False, map_chunks=map).resumed)"
    )
    store = tmp_path / "store"
    command = [sys.executable, "-c", program, str(demo_root), str(store)]
    first = subprocess.Popen(command)
    until = time.monotonic() + 120
    while len(list(store.glob("_prepare/*.json"))) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (store / "store.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(again.stdout) >= 3
    split = CropStore.open(str(store)).split("train")
    assert split.annotations().frame_ids == [ref.frame_id for ref in ZodReader(demo_root, "mini").frames("train")]
    assert len(split.read(range(64)).images) == 64
