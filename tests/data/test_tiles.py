"""Tiles: a frame cut into several crops, each an example of its own (issue 2, crop sampling)."""

import json

import numpy as np
import pytest
import simplejpeg

from isod.cli.main import main
from isod.data.objects import Annotation
from isod.data.prepare import crop as crop_module
from isod.data.prepare.crop import make_rows
from isod.data.prepare.job import prepare
from isod.data.prepare.region import FAR, Region
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.coco import CocoReader
from isod.data.readers.zod import ZodReader
from isod.data.store.split import CropStore
from isod.errors import InputError

WIDE = Region(4, 892, 3844, 1276)  # three far regions side by side
HEIGHT, WIDTH = 40, 60
TILED = PrepareSettings(tiles=(3, 2), chunk_frames=2)  # tiles of 20×20


def picture(offset=0, height=HEIGHT, width=WIDTH):
    """Tiles of 20×20 pixels, each of its own grey level: 20·(number of the tile) + offset."""
    y, x = np.mgrid[:height, :width]
    return np.repeat((20 * (3 * (y // 20) + x // 20) + offset)[..., None], 3, axis=2).astype(np.uint8)


class Ref:
    frame_id, size = "f", None

    def __init__(self, path, boxes=()):
        self.image_path = str(path)
        self.boxes = list(boxes)

    def objects(self):
        return Annotation.build(self.boxes, range(1, len(self.boxes) + 1), [False] * len(self.boxes))


def written(folder, image, name="frame.jpg"):
    (folder / name).write_bytes(simplejpeg.encode_jpeg(image, quality=100, colorsubsampling="444"))
    return folder / name


def greys(crops):
    return np.rint(crops.images[:, 5, 5, 0]).astype(int).tolist()


def test_three_far_regions_side_by_side():
    left, middle, right = WIDE.tiles(3, 1)
    assert (left, middle, right) == (Region(4, 892, 1284, 1276), FAR, Region(2564, 892, 3844, 1276))


def test_tiles_fill_the_region_row_by_row():
    # ten columns in three parts: 3, 3 and 4; five rows in two: 2 and 3
    assert Region(100, 50, 110, 55).tiles(3, 2) == [
        Region(100, 50, 103, 52), Region(103, 50, 106, 52), Region(106, 50, 110, 52),
        Region(100, 52, 103, 55), Region(103, 52, 106, 55), Region(106, 52, 110, 55),
    ]  # fmt: skip
    assert FAR.tiles(1, 1) == [FAR]
    with pytest.raises(InputError, match="no more than its pixels, got"):
        Region(0, 0, 4, 4).tiles(5, 1)


def test_a_frame_by_hand(tmp_path):
    """A box of 10×10 inside tile 0; one of 16×10 with 12 of its columns in tile 1 and 4, exactly a quarter, in tile 2;
    one of 20×20 with a quarter in each of the tiles 1, 2, 4 and 5; one of which tile 3 has a tenth, too little."""
    boxes = [[5, 5, 15, 15], [28, 0, 44, 10], [30, 10, 50, 30], [0, 2, 10, 22]]
    rows = make_rows(Ref(written(tmp_path, picture()), boxes), 7, TILED)
    assert [(row.index, row.frame_id, row.size, row.error) for row in rows] == [
        (index, "f", (20, 20), None) for index in range(42, 48)
    ]
    got = [list(zip(row.objects.labels.tolist(), row.objects.boxes.tolist(), strict=True)) for row in rows]
    assert got == [
        [(1, [5, 5, 15, 15]), (4, [0, 2, 10, 20])],
        [(2, [8, 0, 20, 10]), (3, [10, 10, 20, 20])],
        [(2, [0, 0, 4, 10]), (3, [0, 10, 10, 20])],
        [],
        [(3, [10, 0, 20, 10])],
        [(3, [0, 0, 10, 10])],
    ]
    for tile, row in enumerate(rows):
        assert np.abs(simplejpeg.decode_jpeg(row.image).astype(int) - 20 * tile).max() <= 2


def test_resize_is_of_each_tile(tmp_path):
    settings = PrepareSettings(roi=Region(0, 0, 60, 20), tiles=(3, 1), resize=(40, 10))
    rows = make_rows(Ref(written(tmp_path, picture()), [[24, 8, 28, 16]]), 0, settings)
    assert [row.size for row in rows] == [(10, 40)] * 3
    assert rows[1].objects.boxes.tolist() == [[8, 4, 16, 8]]  # twice as wide, half as high


def test_the_image_is_decoded_once(tmp_path, monkeypatch):
    seen = []
    decode = crop_module.decode_image
    monkeypatch.setattr(
        crop_module, "decode_image", lambda *rest, **options: seen.append(1) or decode(*rest, **options)
    )
    assert len(make_rows(Ref(written(tmp_path, picture())), 0, TILED)) == 6
    assert len(seen) == 1


def test_tiles_beyond_the_image_are_lost_alone(tmp_path):
    """Of the region 0…120 the image covers 60 columns: the first of four tiles of 30 columns, and the second."""
    settings = PrepareSettings(roi=Region(0, 0, 120, 40), tiles=(4, 1))
    rows = make_rows(Ref(written(tmp_path, picture())), 2, settings)
    assert [row.index for row in rows] == [8, 9, 10, 11]
    assert [row.image is None for row in rows] == [False, False, True, True]
    assert "ends before the region of interest" in rows[2].error


def test_a_lost_frame_loses_all_its_tiles(tmp_path):
    rows = make_rows(Ref(tmp_path / "nothing"), 3, TILED)
    assert [(row.index, row.image, row.size) for row in rows] == [(index, None, (0, 0)) for index in range(18, 24)]
    assert {row.error for row in rows} == {
        f"its image {tmp_path / 'nothing'} cannot be read: No such file or directory"
    }
    rows = make_rows(Ref(written(tmp_path, picture(height=1, width=2))), 0, TILED)
    assert "2×1 pixels, too few for 3×2 tiles" in rows[5].error


@pytest.mark.parametrize("tiles", [(0, 1), (1, -1), (2000, 2)])
def test_settings_are_checked(tiles):
    with pytest.raises(InputError, match="tiles is COLUMNS ROWS"):
        PrepareSettings(tiles=tiles)
    with pytest.raises(InputError, match="no more than its pixels"):
        PrepareSettings(roi=Region(0, 0, 10, 10), tiles=(11, 1))


def test_one_tile_is_the_whole_region():
    assert PrepareSettings(tiles=(1, 1)).to_dict() == PrepareSettings().to_dict()


@pytest.fixture
def coco(tmp_path):
    """Three training images and one for validation of 60×40, image i a little brighter than the one before; in image i
    a box in tile i."""
    (tmp_path / "images").mkdir()
    for split, names in (("train", range(3)), ("val", range(3, 4))):
        content = {"categories": [{"id": 1, "name": "car"}], "images": [], "annotations": []}
        for i in names:
            written(tmp_path / "images", picture(offset=4 * i), f"{i}.jpg")
            content["images"].append({"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT})
            box = [20 * (i % 3) + 2, 20 * (i // 3) + 3, 10, 10]
            content["annotations"].append({"id": i, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0})
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    return tmp_path


def reader_of(root):
    return CocoReader(*((root / "images", root / f"{split}.json") for split in ("train", "val")))


def test_a_coco_set(coco, capsys):
    """From the command line: whole images, six tiles each; image 1 is gone."""
    (coco / "images/1.jpg").unlink()
    sources = [
        arg for split in ("train", "val") for arg in (f"--{split}", str(coco / "images"), str(coco / f"{split}.json"))
    ]
    assert main(["prepare", "coco", str(coco / "store"), *sources, "--tiles", "3", "2"]) == 0
    printed = capsys.readouterr().out
    assert "6 tiles of frames could not be read" in printed
    assert "18 train + 6 val crops of 20×20" in printed
    store = CropStore.open(str(coco / "store"))
    assert store.meta.tiles == (3, 2)
    assert store.meta.crop_size == (20, 20)
    assert store.meta.rows == {"train": 18, "val": 6}
    split = store.split("train")
    assert sorted(split.lost) == list(range(6, 12))
    assert split.readable.tolist() == [*range(6), *range(12, 18)]
    got = split.read([17, 0, 4, 13])  # tile 5 of image 2, tiles 0 and 4 of image 0, tile 1 of image 2
    np.testing.assert_allclose(greys(got), [108, 0, 80, 28], atol=2)
    rows = split.annotations()
    assert rows.frame_ids == ["0.jpg"] * 6 + ["1.jpg"] * 6 + ["2.jpg"] * 6
    assert rows.tiles[12:].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    found = {index: boxes.tolist() for index, boxes in enumerate(rows.boxes) if len(boxes)}
    assert found == {0: [[2, 3, 12, 13]], 14: [[2, 3, 12, 13]]}
    assert store.meta.counts["train"]["car"] == {"small": 0, "medium": 0, "large": 2}


def test_an_interrupted_job_goes_on_and_other_tiles_are_refused(coco):
    def one_chunk_then_stop(work, chunks):
        yield work(chunks[1])
        raise KeyboardInterrupt

    uri = str(coco / "store")
    with pytest.raises(KeyboardInterrupt):
        prepare(reader_of(coco), uri, TILED, progress=False, map_chunks=one_chunk_then_stop)
    with pytest.raises(InputError, match=r"tiles was \[3, 2\] and is now None"):
        prepare(reader_of(coco), uri, PrepareSettings(), progress=False, map_chunks=map)
    assert prepare(reader_of(coco), uri, TILED, progress=False, map_chunks=map).resumed == 1
    split = CropStore.open(uri).split("train")
    np.testing.assert_allclose(
        greys(split.read(range(18))), [20 * t + 4 * i for i in range(3) for t in range(6)], atol=2
    )


def test_every_frame_lost_counts_frames(coco):
    for i in range(3):
        (coco / f"images/{i}.jpg").write_text("no image")
    with pytest.raises(InputError, match="none of the 3 frames of split 'train' can be read"):
        prepare(reader_of(coco), str(coco / "store"), TILED, progress=False, map_chunks=map)


def test_the_middle_tile_of_three_is_the_far_region(demo_root, tiny_store, tmp_path):
    """On demo data, in ZOD's layout, the tile gives byte for byte what the far region gives."""
    settings = PrepareSettings(roi=WIDE, tiles=(3, 1), resize=(160, 48))
    prepare(ZodReader(demo_root, "mini"), str(tmp_path / "store"), settings, progress=False, map_chunks=map)
    wide, far = CropStore.open(str(tmp_path / "store")).split("val"), CropStore.open(tiny_store).split("val")
    assert len(wide) == 3 * len(far)
    middle = np.arange(1, len(wide), 3)
    assert wide.read_encoded(middle) == far.read_encoded(range(len(far)))
    tiles, whole = wide.annotations(), far.annotations()
    assert [tiles.frame_ids[i] for i in middle] == whole.frame_ids
    for index, boxes, labels in zip(middle, whole.boxes, whole.labels, strict=True):
        assert tiles.boxes[index].tolist() == boxes.tolist()
        assert tiles.labels[index].tolist() == labels.tolist()
