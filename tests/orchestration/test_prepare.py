"""The prepare job on a cluster: the same store as without, and a worker that is lost."""

import os
import signal
import sys
from dataclasses import replace

import numpy as np

from isod.data.prepare.chunk import ChunkStatus
from isod.data.prepare.job import in_processes, prepare
from isod.data.prepare.journal import Chunk
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.coco import CocoReader
from isod.data.readers.zod import ZodReader
from isod.data.store.split import CropStore
from isod.orchestration.prepare import on_cluster
from tests.data.made_reader import MadeFrame
from tests.data.written_formats import made_set, write_coco


def contents(store):
    """All that a split holds: the bytes of the images, the objects, names, tiles and sizes."""
    found = []
    for name in ("train", "val"):
        split = store.split(name)
        rows = split.annotations()
        arrays = [*rows.boxes, *rows.labels, *rows.dont_care, rows.tiles, split.sizes()]
        found.append((split.read_encoded(split.readable), rows.frame_ids, [(a.dtype, a.tolist()) for a in arrays]))
    return found


def test_map_processes_and_cluster_make_the_same_store(ray_local, demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    settings = PrepareSettings(resize=(120, 60), tiles=(2, 1), chunk_frames=20)
    stores = []
    for name, map_chunks in (("map", map), ("pool", in_processes), ("ray", on_cluster())):
        uri = str(tmp_path / name)
        report = prepare(ZodReader(demo_root, "mini"), uri, settings, progress=False, map_chunks=map_chunks)
        assert report.meta.rows == {"train": 128, "val": 32}
        stores.append(CropStore.open(uri))
    first, *others = stores
    for other in others:
        assert replace(other.meta, checksums=first.meta.checksums) == first.meta  # Lance names its files at random
        assert contents(other) == contents(first)


def test_jpegs_are_kept_byte_for_byte_with_ray_and_without(ray_local, tmp_path, monkeypatch):
    """Not only the same rows: the files of both stores have the same bytes, under names that Lance makes up."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    words = write_coco(tmp_path / "set", made_set(12, 6, dont_care=True))
    reader = CocoReader(tuple(words[1:3]), tuple(words[4:6]))
    files = {}
    for name, map_chunks in (("map", map), ("pool", in_processes), ("ray", on_cluster())):
        uri = tmp_path / name
        prepare(reader, uri, PrepareSettings(chunk_frames=4), progress=False, map_chunks=map_chunks)
        for split in ("train", "val"):
            crops = CropStore.open(str(uri)).split(split)
            kept = [(tmp_path / "set/images" / frame).read_bytes() for frame in crops.annotations().frame_ids]
            assert crops.read_encoded(range(len(crops))) == kept
        files[name] = sorted(file.read_bytes() for file in uri.rglob("data/*.lance"))
    assert len(files["map"]) == 5  # 3 chunks of 4 frames and 2
    assert files["pool"] == files["map"]
    assert files["ray"] == files["map"]


def test_workers_do_not_load_torch(ray_local):
    """Ten seconds and 300 MB per worker, for nothing."""

    def loaded(batch):
        import isod.data.readers.zod
        import isod.orchestration.prepare  # noqa: F401

        return {"torch": np.array(["torch" in sys.modules])}

    rows = ray_local.data.range(1).map_batches(loaded).take_all()
    assert rows == [{"torch": False}]


def test_the_chunk_of_a_lost_worker_is_processed_again(ray_local, tmp_path):
    marker = tmp_path / "killed"

    def die_once(chunk):
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ChunkStatus(len(chunk.frames), "")

    chunks = [Chunk("train", number, number, [MadeFrame("1", "")] * (number + 1)) for number in range(2)]
    assert sorted(status.frames for status in on_cluster()(die_once, chunks)) == [1, 2]
    assert marker.exists()
