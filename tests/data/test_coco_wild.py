"""COCO jsons and pictures as tools and people leave them: what comes out of each."""

import gzip
import io
import json
import os
import unicodedata
from unittest import mock

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from isod.cli.main import main
from isod.data.prepare.crop import make_rows
from isod.data.prepare.decode import DAMAGED, KEPT, TURNED, UNDECIDED
from isod.data.prepare.job import prepare
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.coco import CocoReader
from isod.data.store.split import CropStore
from isod.errors import InputError

WIDTH, HEIGHT = 64, 32


def picture(height=HEIGHT, width=WIDTH):
    """Bright at the top left, dark elsewhere."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[: height // 2, : width // 2] = 230
    return pixels


def jpeg(pixels, orientation=None):
    data, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(data, "JPEG", quality=95, exif=exif, subsampling=0)
    return data.getvalue()


def content(**changes):
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
                   {"id": 2, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 16]},
                        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [4, 4, 8, 8]}],
        "categories": [{"id": 1, "name": "car"}],
        **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (images / name).write_bytes(jpeg(picture()))
    return tmp_path


def reader_of(folder, train, val=None, **options):
    for name, data in (("train.json", train), ("val.json", content() if val is None else val)):
        (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    paths = [(folder / "images", folder / f"{split}.json") for split in ("train", "val")]
    return CocoReader(*paths, **options)


# --- categories ------------------------------------------------------------------------------------------------------


def test_an_unused_root_of_the_same_name_is_dropped(folder):
    """As a common exporter writes a set of one class: the root has the title, or the class's own name."""
    for root in ("car", "My traffic set"):
        categories = [{"id": 0, "name": root, "supercategory": "none"}, {"id": 1, "name": "car"}]
        reader = reader_of(folder, content(categories=categories))
        assert reader.class_names == ("car",)
        assert reader.frames("train")[0].objects().labels.tolist() == [1]
        assert f"categories without an object in this file: 1, the first of '{root}'" in reader.notes[0]


def test_two_used_categories_of_the_same_name_are_refused(folder):
    changed = content(categories=[{"id": 0, "name": "car"}, {"id": 1, "name": "car"}])
    changed["annotations"][0]["category_id"] = 0
    with pytest.raises(InputError, match=r"train\.json: two categories have the name 'car'\. Rename one of them"):
        reader_of(folder, changed)


def test_an_unused_class_of_val_alone_is_dropped(folder):
    val = content(categories=[{"id": 1, "name": "car"}, {"id": 2, "name": "tram"}])
    assert reader_of(folder, content(), val).class_names == ("car",)


def test_no_object_at_all(folder):
    with pytest.raises(InputError, match=r"train\.json has no object of any category"):
        reader_of(folder, content(annotations=[]))


# --- annotations -----------------------------------------------------------------------------------------------------


def test_ignored_objects_are_dont_care(folder):
    changed = content()
    changed["annotations"][0]["ignore"] = 1
    reader = reader_of(folder, changed)
    first, second = (frame.objects() for frame in reader.frames("train"))
    assert (first.labels.tolist(), first.dont_care.tolist()) == ([0], [True])
    assert second.dont_care.tolist() == [False]
    assert any('objects with "ignore", which are don\'t-care: 1, the first of annotation 1' in n for n in reader.notes)


def test_ids_of_text(folder):
    """Whole numbers come first, by value, also where they are text; then text."""
    images = [{"id": key, "file_name": name, "width": WIDTH, "height": HEIGHT}
              for key, name in (("b7", "a.jpg"), ("10", "b.jpg"), (9, "c.jpg"))]  # fmt: skip
    annotations = [{"id": "x-1", "image_id": 10, "category_id": "c", "bbox": [4, 4, 8, 8]},
                   {"id": "x-2", "image_id": "9", "category_id": "2", "bbox": [1, 1, 8, 8]}]  # fmt: skip
    categories = [{"id": "c", "name": "car"}, {"id": "2", "name": "bus"}]
    reader = reader_of(folder, content(images=images, annotations=annotations, categories=categories))
    assert reader.class_names == ("bus", "car")
    assert [frame.frame_id for frame in reader.frames("train")] == ["c.jpg", "b.jpg", "a.jpg"]
    assert [frame.objects().labels.tolist() for frame in reader.frames("train")] == [[1], [2], []]
    images[2]["id"] = "10"
    with pytest.raises(InputError, match="image number 2 has the id 10 of an earlier one"):
        reader_of(folder, content(images=images, annotations=[], categories=categories))


def test_boxes_from_polygons_and_masks(folder):
    """A polygon of whole pixels, and both forms of run-length code of rows 2…9 and columns 4…19."""
    from pycocotools import mask

    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[2:10, 4:20] = 1
    packed = mask.encode(pixels)
    counts, last, run = [], 0, 0
    for value in pixels.ravel(order="F").tolist():
        if value != last:
            counts.append(run)
            last, run = value, 0
        run += 1
    counts.append(run)
    outlines = [
        [[4, 2, 20, 2, 20, 10, 4, 10]],
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": counts},
    ]
    for outline in outlines:
        changed = content()
        del changed["annotations"][0]["bbox"]
        changed["annotations"][0]["segmentation"] = outline
        reader = reader_of(folder, changed)
        assert reader.frames("train")[0].objects().boxes.tolist() == [[4, 2, 20, 10]]
        assert any("boxes made from polygons or masks, as the bbox is missing: 1, the" in note for note in reader.notes)


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]],
        [["x"] * 6],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
        {"size": [HEIGHT, WIDTH], "counts": "PP"},
        {"size": [HEIGHT, WIDTH], "counts": "oooooooo"},
        {"size": [1, 1], "counts": [1]},
        "polygon",
    ],
)
def test_outlines_that_are_none(folder, outline):
    changed = content()
    changed["annotations"][0] |= {"bbox": [], "segmentation": outline}
    with pytest.raises(InputError, match=r"annotation 1 has no bbox, and a segmentation that is neither"):
        reader_of(folder, changed)


def test_boxes_that_do_not_fit_their_polygons(folder):
    """As an export of masks wrote [centre x, centre y, right, bottom] of something else: silently wrong boxes."""
    square = [[4, 4, 12, 4, 12, 12, 4, 12]]
    changed = content()
    changed["annotations"][1]["segmentation"] = square  # bbox [4, 4, 8, 8]: exactly it
    changed["annotations"][0]["segmentation"] = [[0, 0, 0, 0, 0, 0]]  # of no area: not compared
    assert not any("polygons" in note for note in reader_of(folder, changed).notes)
    changed["annotations"][0]["segmentation"] = square  # bbox [0, 0, 32, 16]: IoU 64 / 512
    (note,) = [note for note in reader_of(folder, changed).notes if "polygons" in note]
    assert "boxes that do not fit their polygons (IoU below 0.5), and are used: 1, the first of annotation 1" in note
    changed["annotations"][1]["bbox"] = [8, 8, 12, 12]  # IoU 16 / 192
    with pytest.raises(
        InputError, match=r"train\.json: 2 of 2 boxes do not fit their polygons, one is that of annotation 1"
    ):
        reader_of(folder, changed)
    for annotation in changed["annotations"]:
        del annotation["bbox"]
    frames = reader_of(folder, changed).frames("train")
    assert [frame.objects().boxes.tolist() for frame in frames] == [[[4, 4, 12, 12]]] * 2


@pytest.mark.parametrize("outline", [[["x"] * 6], [3], [[1, 2]], [[[1, 2]] * 6], {"counts": []}, "x", [{"a": 1}] * 2])
def test_what_is_no_polygon_is_not_compared(folder, outline):
    changed = content()
    changed["annotations"][0]["segmentation"] = outline
    assert reader_of(folder, changed).frames("train")[0].objects().boxes.tolist() == [[0, 0, 32, 16]]


# --- names of files --------------------------------------------------------------------------------------------------

NFD = unicodedata.normalize("NFD", "Gärten.jpg")


@pytest.mark.parametrize(
    ("said", "there", "how"),
    [
        ("sub\\x.jpg", "sub/x.jpg", "with slashes for backslashes"),
        ("my%20car%231.jpg", "my car#1.jpg", "with percent signs decoded"),
        (NFD, unicodedata.normalize("NFC", NFD), "in another form of Unicode"),
        ("x.jpeg", "x.JPG", "with another ending"),
    ],
)
def test_other_names_are_tried_if_asked_for(folder, said, there, how):
    (folder / "images/sub").mkdir()
    (folder / "images" / there).write_bytes(jpeg(picture()))
    changed = content()
    changed["images"][0]["file_name"] = said
    (note,) = reader_of(folder, changed).notes  # b.jpg is there, so one frame will be lost, and why is told
    assert f"images that are not there, but {folder}/images/{there} is ({how}): --lenient takes such files" in note
    changed["images"][1]["file_name"] = "none.jpg"
    with pytest.raises(InputError, match=r"none of the 2 images of .* the first one looked for is .*--lenient takes"):
        reader_of(folder, changed)
    changed["images"][1]["file_name"] = "b.jpg"
    reader = reader_of(folder, changed, lenient=True)
    assert reader.frames("train")[0].image_path == str(folder / "images" / there)
    assert f"images found under another name, {how} (--lenient): 1, the first of " in reader.notes[0]


def test_a_name_that_is_there_is_told(folder):
    changed = content()
    for image in changed["images"]:
        image["file_name"] = "other/" + image["file_name"]
    with pytest.raises(InputError) as error:
        reader_of(folder, changed)
    where = f"the first one looked for is '{folder}/images/other/a.jpg', which is not there, but {folder}"
    assert where in str(error.value)
    assert str(error.value).endswith("images/a.jpg is")


@pytest.mark.parametrize("name", ["..%2Ftrain.json", "..\\train.json", "..%5Ctrain.json", "%2Fetc%2Fhostname"])
def test_no_other_name_leads_out_of_the_folder(folder, name):
    changed = content()
    changed["images"][0]["file_name"] = name
    reader = reader_of(folder, changed, lenient=True)
    assert reader.frames("train")[0].image_path == f"{folder}/images/{name}"


def test_links_are_followed_if_asked_for(folder, tmp_path):
    (folder / "elsewhere.jpg").write_bytes(jpeg(picture()))
    os.remove(folder / "images/a.jpg")
    os.symlink(folder / "elsewhere.jpg", folder / "images/a.jpg")
    with pytest.raises(InputError, match=r"as links lead to .*\. Move the file there, or pass --follow-links\."):
        reader_of(folder, content())
    assert len(reader_of(folder, content(), follow_links=True).frames("train")) == 2
    changed = content()
    changed["images"][0]["file_name"] = "../elsewhere.jpg"
    with pytest.raises(InputError, match=r"which is not inside the image folder .*\. Move the file there\.$"):
        reader_of(folder, changed, follow_links=True)


# --- the json itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", [gzip.compress, lambda data: data.decode().encode("utf-16"),
                                    lambda data: b"\xef\xbb\xbf" + data])  # fmt: skip
def test_packed_and_other_encodings_are_read(folder, encode):
    reader = reader_of(folder, encode(json.dumps(content()).encode()))
    assert reader.class_names == ("car",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(content()).replace("car", "Bär").encode("latin-1"), "is not JSON: its bytes are no utf-8 text, fi"),
        (json.dumps(content(area=float("nan")), indent=1).encode(),
         r"is not JSON: NaN is not a JSON number: line \d\d column 10; write a number there, or null"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], "is a damaged gzip file"),
        (b"PK\x03\x04", "is not JSON: "),
    ],
)  # fmt: skip
def test_the_cause_and_its_place_are_named(folder, data, message):
    with pytest.raises(InputError, match=message):
        reader_of(folder, data)


def test_the_place_of_nan_is_right(folder):
    text = '{"images": "NaN",\n "area": NaN}'
    with pytest.raises(InputError, match="NaN is not a JSON number: line 2 column 10;"):
        reader_of(folder, text.encode())


def test_sizes_that_are_missing_are_read(folder):
    changed = content()
    for image in changed["images"]:
        del image["width"], image["height"]
    changed["annotations"][0]["bbox"] = [60, 0, 10, 10]
    reader = reader_of(folder, changed)
    assert any("images without a size, which is read from the image file: 2" in note for note in reader.notes)
    assert reader.frames("train")[0].objects().boxes.tolist() == [[60, 0, WIDTH, 10]]
    store = folder / "store"
    report = str(prepare(reader, store, map_chunks=map, progress=False))
    assert "note: train: boxes clipped, as they reach beyond their image: 1, the first in a.jpg" in report
    assert CropStore.open(str(store)).split("train").annotations().boxes[0].tolist() == [[60, 0, WIDTH, 10]]


# --- pictures --------------------------------------------------------------------------------------------------------

TURNS = {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
         5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1), 7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
         8: lambda p: np.rot90(p)}  # fmt: skip  # the standard's own words, in numpy


def row(folder, changed, **settings):
    reader = reader_of(folder, changed)
    (made,) = make_rows(reader.frames("train")[0], 0, PrepareSettings(**settings))
    return made


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_where_only_the_upright_one_has_the_size(folder, orientation, kind):
    stored = picture()
    upright = TURNS[orientation](stored)
    data, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(data, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    (folder / "images/a.jpg").write_bytes(data.getvalue())
    changed = content()
    changed["images"][0] |= {"height": upright.shape[0], "width": upright.shape[1]}
    made = row(folder, changed)
    assert made.error is None
    got = simplejpeg.decode_jpeg(made.image).astype(int)
    assert got.shape == upright.shape
    assert np.abs(got - upright).mean() < 4
    sideways = upright.shape != stored.shape
    told = {TURNED} if sideways else {UNDECIDED} if orientation > 1 else set()
    assert set(made.remarks) == (set() if kind == "TIFF" else told)  # PIL itself turns a TIFF


def test_a_picture_whose_size_fits_the_stored_pixels_is_not_turned(folder):
    data = jpeg(picture(), 6)
    (folder / "images/a.jpg").write_bytes(data)
    made = row(folder, content())
    assert made.image == data  # kept byte for byte
    assert set(made.remarks) == {KEPT}
    assert row(folder, content(), exif="apply").error.endswith("has 32×64 pixels, but its annotation says 64×32")


def test_the_option_decides_where_the_size_does_not(folder):
    (folder / "images/a.jpg").write_bytes(jpeg(picture(), 3))
    for exif, corner in (("auto", 20), ("apply", 20), ("ignore", 230)):
        pixels = simplejpeg.decode_jpeg(row(folder, content(), exif=exif).image)
        assert abs(int(pixels[4, 4, 0]) - corner) < 8
    reader = reader_of(folder, content())
    report = str(prepare(reader, folder / "store", map_chunks=map, progress=False))
    assert f"note: train: {UNDECIDED}: 1, the first in a.jpg" in report


def test_where_most_odd_boxes_lie_in_such_pictures_it_is_told(folder):
    (folder / "images/a.jpg").write_bytes(jpeg(picture(), 6))
    changed = content()
    changed["annotations"].append({"id": 3, "image_id": 1, "category_id": 1, "bbox": [10, 20, 8, 40]})
    reader = reader_of(folder, changed)
    report = str(prepare(reader, folder / "store", map_chunks=map, progress=False))
    assert "1 of the 1 boxes that were clipped or left out are in pictures with an EXIF orientation" in report


def test_damaged_jpegs_are_lost_or_kept_as_far_as_they_decode(folder):
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    whole = jpeg(noise)
    for damaged in (whole[: len(whole) // 2], whole[:-2]):
        (folder / "images/a.jpg").write_bytes(damaged)
        lost = row(folder, content())
        assert lost.image is None
        assert "does not decode: " in lost.error
        kept = row(folder, content(), lenient=True)
        assert kept.remarks == {DAMAGED: 1}
        assert simplejpeg.decode_jpeg(kept.image).shape == (HEIGHT, WIDTH, 3)  # whole again
    (folder / "images/a.jpg").write_bytes(b"\xff\xd8\xffnothing")
    assert "does not decode" in row(folder, content(), lenient=True).error


def test_lost_tiles_are_grouped_by_frame(folder):
    (folder / "images/a.jpg").write_bytes(b"nothing")
    reader = reader_of(folder, content())
    report = str(prepare(reader, folder / "store", PrepareSettings(tiles=(4, 2)), map_chunks=map, progress=False))
    lines = [line for line in report.splitlines() if line.startswith(("  train", "  val"))]
    assert len(lines) == 2
    assert lines[0].startswith("  train 0 (all 8 tiles): its image ")


# --- a split that makes a run worthless ------------------------------------------------------------------------------


def test_a_validation_split_without_an_object(folder, capsys):
    reader = reader_of(folder, content(), content(annotations=[]))
    store = str(folder / "store")
    report = str(prepare(reader, store, map_chunks=map, progress=False))
    assert "note: split 'val' has no object of any class: it cannot be trained on" in report
    assert main(["train", store, "--sampler", "UIS", "--seed", "0", "--out", str(folder / "out")]) == 2
    assert "split 'val' of the crop store " in (said := capsys.readouterr().err)
    assert "has no object of any class, so nothing can be measured" in said
    assert not (folder / "out").exists()
    with mock.patch("isod.orchestration.sweep.connect", side_effect=AssertionError("Ray was started")):
        assert main(["sweep", "--store", store, "--samplers", "UIS", "--out", str(folder / "out")]) == 2
    assert "has no object of any class, so nothing can be measured" in capsys.readouterr().err
