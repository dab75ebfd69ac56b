"""The crop store: what goes in comes out, in any order, and what is no store says so."""

import json
import multiprocessing
import os
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from isod.data.objects import Annotation
from isod.data.store import split as split_module
from isod.data.store.address import filesystem, write_text
from isod.data.store.checksums import COVERED, compute_checksums, verify_checksums
from isod.data.store.meta import FORMAT_VERSION, StoreMeta
from isod.data.store.split import CropStore
from isod.data.store.writer import Row, commit, disk_full_is_bad_input, write_fragment
from isod.errors import InputError

NOTHING = Annotation.build([], [], [])
LOST, SMALLER, DAMAGED = 3, 4, 6


def flat_image(index, height=16, width=24):
    """One grey level, which JPEG keeps to within a level or two: the index can be read off the pixels."""
    return np.full((height, width, 3), 20 * index, dtype=np.uint8)


def make_row(index):
    if index == LOST:
        return Row(index, f"frame{index}", None, "its image is gone", NOTHING, (0, 0))
    size = (8, 12) if index == SMALLER else (16, 24)
    jpeg = simplejpeg.encode_jpeg(flat_image(index, *size), quality=95)
    if index == DAMAGED:
        jpeg = jpeg[: len(jpeg) // 2]
    n = index % 3
    objects = Annotation.build([[index, 1, index + 2, 5]] * n, [1, 0][:n], [False, True][:n])
    return Row(index, f"frame{index}", jpeg, None, objects, size)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("stores") / "store")
    fragments = {}
    for start in (5, 0):  # written out of order, committed in order
        fragments[start] = write_fragment(uri, "train", [make_row(i) for i in range(start, start + 5)])
    write_fragment(uri, "train", [make_row(0)])  # of an interrupted job: never committed
    checksums = {
        "train": commit(uri, "train", [fragments[0], fragments[5]]),
        "val": commit(uri, "val", [write_fragment(uri, "val", [make_row(1)])]),
    }
    meta = StoreMeta(
        class_names=("car",), crop_size=(16, 24), source="coco", demo=False, settings={"resize": None},
        rows={"train": 10, "val": 1}, lost={"train": {LOST: "its image is gone"}, "val": {}}, counts={},
        checksums=checksums,
    )  # fmt: skip
    write_text(uri, "store.json", meta.to_json())
    return uri


def grey(crops):
    return np.rint(crops.images[:, 2, 2, 0] / 20).astype(int).tolist()


@pytest.mark.parametrize("threads", [1, 2])
def test_reads_in_the_order_asked_for_with_repeats(store, threads):
    crops = CropStore.open(store).split("train").read([8, 0, 8, 5, 2, 0], threads=threads)
    assert crops.indices.tolist() == [8, 0, 8, 5, 2, 0]
    assert grey(crops) == [8, 0, 8, 5, 2, 0]
    assert crops.images.shape == (6, 16, 24, 3)
    assert crops.images.dtype == np.uint8
    assert crops.objects.counts.tolist() == [2, 0, 2, 2, 2, 0]
    assert crops.objects.boxes.tolist()[:2] == [[[8, 1, 10, 5]] * 2, [[0, 0, 0, 0]] * 2]
    assert crops.objects.labels.tolist()[:2] == [[1, 0], [0, 0]]
    assert crops.objects.dont_care.tolist()[:2] == [[False, True], [False, False]]
    crops.objects.boxes[0][0, 0] = 5  # no read-only view of Arrow's memory


def test_a_smaller_crop_lies_top_left_on_black(store):
    image = CropStore.open(store).split("train").read([SMALLER]).images[0]
    assert abs(int(image[7, 11, 0]) - 80) <= 2
    assert image[8:].max() == 0
    assert image[:, 12:].max() == 0


def test_nothing_shows_of_what_the_memory_held_before(store, monkeypatch):
    """A process that keeps its memory decodes a batch into that of an earlier one."""
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 255, dtype))
    whole, smaller, damaged = CropStore.open(store).split("train").read([1, SMALLER, DAMAGED], quarantine=True).images
    assert np.abs(whole.astype(int) - 20).max() <= 2
    assert smaller[8:].max() == smaller[:, 12:].max() == 0
    assert smaller[:8, :12].min() >= 78
    assert damaged.max() == 0


def test_no_indices_give_no_crops(store):
    split = CropStore.open(store).split("train")
    assert split.read([]).images.shape == (0, 16, 24, 3)
    assert split.read_encoded([]) == []


def test_read_encoded_gives_the_bytes(store):
    assert CropStore.open(store).split("train").read_encoded([2, 1]) == [make_row(2).image, make_row(1).image]


def test_lost_frames_keep_their_index(store):
    split = CropStore.open(store).split("train")
    assert len(split) == 10
    assert split.lost == {LOST: "its image is gone"}
    assert split.readable.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    annotations = split.annotations()
    assert annotations.frame_ids == [f"frame{i}" for i in range(10)]
    assert [len(labels) for labels in annotations.labels] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(InputError, match=r"index 3 .*lost frame .its image is gone"):
        split.read([1, LOST])


@pytest.mark.parametrize("index", [10, -1])
def test_an_index_out_of_range_is_named(store, index):
    with pytest.raises(InputError, match=rf"index {index} is outside split 'train' .* 0…9"):
        CropStore.open(store).split("train").read([0, index])


@pytest.mark.parametrize("indices", [[[1, 2]], [0.5]])
def test_indices_are_flat_integers(store, indices):
    with pytest.raises(ValueError, match="flat list of integers"):
        CropStore.open(store).split("train").read(indices)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_that_does_not_decode_is_named(store, threads):
    with pytest.raises(InputError, match=r"split 'train'.*index 6 \(frame frame6\) does not decode"):
        CropStore.open(store).split("train").read([1, DAMAGED], threads=threads)


def test_uncommitted_fragments_are_cleared_away(store):
    assert len(os.listdir(f"{store}/train.lance/data")) == 2


def read_in_child(split, queue):
    queue.put(grey(split.read([9, 1])))


def test_an_opened_split_travels_to_a_spawned_process(store):
    split = CropStore.open(store).split("train")
    split.read([1])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(split, queue))
    child.start()
    assert queue.get(timeout=60) == [9, 1]
    child.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process_refuses_instead_of_hanging(store):
    split = CropStore.open(store).split("train")
    split.read([1])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pickle.loads(pickle.dumps(split)).read([1])
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert b"forked" in os.read(reader, 1000)


def test_what_is_no_store_says_so(tmp_path):
    with pytest.raises(InputError, match="not a crop store"):
        CropStore.open(tmp_path)
    with pytest.raises(InputError, match="not a crop store"):
        CropStore.open(tmp_path / "nowhere")
    for text in ("{", "[]", '{"format": "another"}', "\x00"):
        (tmp_path / "store.json").write_text(text)
        with pytest.raises(InputError, match="not a crop store"):
            CropStore.open(tmp_path)


def test_another_format_version_says_so(store, tmp_path):
    meta = json.loads(Path(store, "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps(meta | {"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(InputError, match=f"has format version {FORMAT_VERSION + 1}, and this isod reads version"):
        CropStore.open(tmp_path)
    del meta["rows"]
    (tmp_path / "store.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="damaged"):
        CropStore.open(tmp_path)


def test_a_missing_split_says_so(store, tmp_path):
    with pytest.raises(InputError, match="no split 'test'"):
        CropStore.open(store).split("test")
    (tmp_path / "store.json").write_text(Path(store, "store.json").read_text())
    with pytest.raises(
        InputError, match=r"split 'train' of the crop store .* is damaged \(.* is missing\): prepare the store again"
    ):
        CropStore.open(tmp_path).split("train").read([0])


@pytest.fixture
def damaged(store, tmp_path):
    """Changes one file of a copy of the train split; gives its name and what reading says then."""

    def damaged(kind, change):
        copy = tmp_path / "store"
        shutil.copytree(store, copy, dirs_exist_ok=True)
        file = next((copy / "train.lance").rglob(f"*.{kind}"))
        file.write_bytes(change(file.read_bytes()))
        with pytest.raises(InputError) as error:
            CropStore.open(copy).split("train").read([0])
        return file.name, str(error.value)

    return damaged


@pytest.mark.parametrize("kind", ["lance", "manifest"])
@pytest.mark.parametrize("place", [-20, -500])
def test_a_changed_byte_where_lance_reads_lengths_is_told_before_lance_reads_it(damaged, kind, place):
    name, sentence = damaged(kind, lambda data: data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    assert sentence.endswith(f"/{name} is not what was written): prepare the store again")


def test_a_file_of_another_length_is_told(damaged):
    name, sentence = damaged("lance", lambda data: data[:-1])
    assert f"{name} has " in sentence


def test_a_checksum_covers_the_end_of_a_file(tmp_path):
    """Of COVERED + 100 bytes the first 100 may change, the next one not. CRC-32 of nine digits: 0xCBF43926."""
    for folder in ("data", "_versions"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_versions/1.manifest").write_bytes(b"123456789")
    (tmp_path / "_versions/hint.json").write_bytes(b"{}")
    file = tmp_path / "data/a.lance"
    file.write_bytes(bytes(100) + bytes(COVERED))
    files, path = filesystem(str(tmp_path))
    checksums = compute_checksums(files, path)
    assert checksums == {
        "_versions/1.manifest": [9, 0xCBF43926],
        "data/a.lance": [COVERED + 100, zlib.crc32(bytes(COVERED))],
    }
    file.write_bytes(b"x" * 100 + bytes(COVERED))
    verify_checksums(files, path, checksums)
    file.write_bytes(bytes(100) + b"x" + bytes(COVERED - 1))
    with pytest.raises(ValueError, match=r"data/a\.lance is not what was written"):
        verify_checksums(files, path, checksums)


def test_a_disk_that_does_not_answer_is_not_called_damage(store, monkeypatch):
    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(split_module, "verify_checksums", fails)
    with pytest.raises(InputError, match=r"split 'train' of the crop store .* cannot be read: .*Input/output error$"):
        CropStore.open(store).split("train").read([0])


def test_the_checksum_of_a_manifest_covers_all_of_it(tmp_path):
    for folder in ("data", "_versions"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_versions/1.manifest").write_bytes(b"m" + bytes(COVERED))
    assert compute_checksums(*filesystem(str(tmp_path))) == {
        "_versions/1.manifest": [COVERED + 1, zlib.crc32(b"m" + bytes(COVERED))]
    }


@pytest.mark.parametrize(
    "checksums",
    [
        {"test": {}},
        {"train": {"../../x.lance": [1, 2]}},
        {"train": {"data/x.lance": [1]}},
        {"train": {"data/x.lance": [1, -2]}},
        {"train": []},
    ],
)
def test_checksums_that_prepare_does_not_write_are_rejected(store, checksums):
    text = CropStore.open(store).meta.to_json()
    with pytest.raises(InputError, match="damaged"):
        StoreMeta.from_json(json.dumps(json.loads(text) | {"seals": checksums}), store)


def test_store_json_keeps_the_name_that_checksums_had_first(store):
    """Stores made before have them under "seals", and the very first ones have none."""
    fields = json.loads(CropStore.open(store).meta.to_json())
    assert fields["seals"].keys() == {"train", "val"}
    assert "checksums" not in fields
    del fields["seals"]
    assert StoreMeta.from_json(json.dumps(fields), store).checksums == {}


def test_meta_round_trip(store):
    meta = CropStore.open(store).meta
    assert StoreMeta.from_json(meta.to_json(), store) == meta


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("Io error: Unable to write file: No space left on device (os error 28)"),
        OSError("LanceError(IO): Generic LocalFileSystem error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_one_sentence(error):
    with pytest.raises(InputError, match="disk that holds STORE is full"), disk_full_is_bad_input("STORE"):
        raise error


def test_other_errors_pass():
    with pytest.raises(OSError, match="broken"), disk_full_is_bad_input("STORE"):
        raise OSError(5, "broken")
