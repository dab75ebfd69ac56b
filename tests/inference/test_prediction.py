"""A saved model on whole frames: region, tiles, resize and seams, by a detector that finds rectangles exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isod.config.settings import DetectorConfig
from isod.data.store.split import CropStore
from isod.detector.model import build_detector
from isod.detector.saved import ModelDescription, save_model
from isod.errors import InputError
from isod.inference.prediction import Predictor
from isod.inference.sources import Broken, ImageBytes, StoreCrops, open_sources
from tests.inference.blobs import picture, save_blobs


def predicted(model, source, **options):
    """(class, box) of each detection, frame by frame."""
    found = Predictor(model, **options).predict(open_sources([str(source)]))
    return [
        sorted((label, *box) for label, box in zip(item.labels.tolist(), item.boxes.tolist(), strict=True))
        for _, item in found
    ]


def test_a_whole_frame_larger_than_the_training_crops(tmp_path):
    image = picture(tmp_path / "a.png", (60, 40), (1, 3, 4, 20, 30), (2, 40, 0, 60, 10))
    assert predicted(save_blobs(tmp_path / "model"), image) == [[(1, 3, 4, 20, 30), (2, 40, 0, 60, 10)]]


def test_a_picture_is_turned_as_the_training_pictures_were(tmp_path):
    """Boxes are in pixels of the upright picture, as viewers show it, unless the store was prepared otherwise."""
    upright = Image.open(picture(tmp_path / "upright.png", (60, 40), (1, 3, 4, 20, 30)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture is turned to the right to be upright
    stored = upright.transpose(Image.Transpose.ROTATE_90)  # 40×60, to the left
    stored.save(tmp_path / "stored.png", exif=exif)
    turned, as_stored = [(1, 3, 4, 20, 30)], [(1, 4, 40, 30, 57)]  # x → 60 − x, then exchanged with y
    for chosen, expected in (({}, turned), ({"exif": "apply"}, turned), ({"exif": "ignore"}, as_stored)):
        model = save_blobs(tmp_path / f"model-{len(chosen)}{chosen.get('exif')}", **chosen)
        assert predicted(model, tmp_path / "stored.png") == [expected]
        (found,) = [
            boxes for _, boxes in Predictor(model).predict(ImageBytes([(tmp_path / "stored.png").read_bytes()]))
        ]
        assert [(1, *box) for box in found.boxes.tolist()] == expected


def test_a_region_of_interest_twice_as_wide_and_half_as_high(tmp_path):
    """The region 20…60 × 10…30 becomes 80×10; what lies outside is not seen, and what it cuts is cut."""
    model = save_blobs(tmp_path / "model", roi=[20, 10, 60, 30], resize=[80, 10])
    image = picture(tmp_path / "a.png", (100, 60), (1, 24, 14, 40, 20), (2, 50, 20, 90, 40), (1, 0, 0, 9, 9))
    assert predicted(model, image) == [[(1, 24, 14, 40, 20), (2, 50, 20, 60, 30)]]


def test_seams_by_hand(tmp_path):
    """Four tiles of 30×20. One object lies on all four, one on two; two objects meet at a seam without being one, as
    their stretches of it differ (IoU 4/12), and two others as their classes differ."""
    image = picture(
        tmp_path / "a.png", (60, 40), (1, 25, 15, 40, 30), (2, 2, 12, 12, 26),
        (1, 45, 14, 53, 20), (1, 49, 20, 57, 26), (1, 25, 34, 30, 40), (2, 30, 34, 36, 40),
    )  # fmt: skip
    assert predicted(save_blobs(tmp_path / "model", tiles=[2, 2]), image) == [[
        (1, 25, 15, 40, 30), (1, 25, 34, 30, 40), (1, 45, 14, 53, 20), (1, 49, 20, 57, 26),
        (2, 2, 12, 12, 26), (2, 30, 34, 36, 40),
    ]]  # fmt: skip


@given(
    x=st.tuples(st.integers(0, 63), st.integers(1, 64)),
    y=st.tuples(st.integers(0, 47), st.integers(1, 48)),
    tiles=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    batch_size=st.integers(1, 5),
)
@settings(max_examples=40)
def test_one_rectangle_is_one_box_however_the_frame_is_cut(tmp_path_factory, x, y, tiles, batch_size):
    folder = tmp_path_factory.mktemp("one")
    (x0, x1), (y0, y1) = sorted(x), sorted(y)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    image = picture(folder / "a.png", (64, 48), (1, x0, y0, x1, y1))
    assert predicted(save_blobs(folder / "model", tiles=tiles), image, batch_size=batch_size) == [[(1, x0, y0, x1, y1)]]


def test_tiles_of_a_region_that_the_frame_ends_before(tmp_path):
    """Of three tiles of 30 columns the frame has one and a half."""
    model = save_blobs(tmp_path / "model", roi=[0, 0, 90, 20], tiles=[3, 1])
    assert predicted(model, picture(tmp_path / "a.png", (45, 20), (1, 20, 5, 45, 9))) == [[(1, 20, 5, 45, 9)]]


def test_score_and_classes(tmp_path):
    model = save_blobs(tmp_path / "model")
    image = picture(tmp_path / "a.png", (60, 40), (1, 3, 4, 20, 30), (2, 40, 0, 60, 10))
    assert predicted(model, image, confidence=0.8) == [[(1, 3, 4, 20, 30)]]
    assert predicted(model, image, classes=["green"]) == [[(2, 40, 0, 60, 10)]]
    for options, message in (
        ({"classes": ["gren"]}, "unknown class 'gren'; did you mean 'green'"),
        ({"confidence": 1.0}, r"--conf must be in \(0, 1\)"),
        ({"iou": 0.0}, "--iou must be in"),
        ({"batch_size": 0}, "--batch-size must be ≥ 1"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor(model, **options)


def test_frames_come_in_order_and_broken_ones_are_left_out(tmp_path):
    """Frames of several sizes, so that batches are cut short, with one file that is no image and one too small."""
    model = save_blobs(tmp_path / "model", tiles=[3, 2])
    rng = np.random.default_rng(0)
    for n in range(9):
        size = (60, 40) if rng.random() < 0.5 else (90, 30)
        picture(tmp_path / f"images/{n}.png", size, (1, n, n, n + 9, n + 9))
    (tmp_path / "images/4.png").write_bytes(b"no image")
    picture(tmp_path / "images/6.png", (2, 1))
    broken = Broken()
    source = open_sources([str(tmp_path / "images")])
    found = list(Predictor(model, batch_size=4).predict(source, broken))
    assert [item.name for item, _ in found] == ["0", "1", "2", "3", "5", "7", "8"]
    assert [item.boxes.tolist() for _, item in found] == [[[n, n, n + 9, n + 9]] for n in (0, 1, 2, 3, 5, 7, 8)]
    assert len(broken.reasons) == 2
    assert "does not decode" in broken.reasons[str(tmp_path / "images/4.png")]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of random weights with a loud head, so that its scores differ."""
    folder = tmp_path_factory.mktemp("network") / "model"
    config = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))
    model = build_detector(config, 3, seed=0)
    torch.nn.init.normal_(model.head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    description = ModelDescription(
        detector=config, class_names=("Vehicle", "VulnerableVehicle", "Pedestrian"), crop_size=(48, 160)
    )
    save_model(folder, model, description)
    return folder


def test_batch_size_changes_nothing_but_noise(network, tiny_store):
    source = StoreCrops(CropStore.open(tiny_store).split("val"))
    runs = [
        [found for _, found in Predictor(network, confidence=0.05, batch_size=n).predict(source)] for n in (1, 3, 16)
    ]
    assert sum(map(len, runs[0])) > 100
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            np.testing.assert_allclose(two.boxes, one.boxes, atol=1e-3)
            np.testing.assert_allclose(two.scores, one.scores, atol=1e-5)
            assert two.labels.tolist() == one.labels.tolist()


def test_a_lower_iou_keeps_fewer(network, tiny_store):
    source = StoreCrops(CropStore.open(tiny_store).split("val"))
    counts = [
        sum(len(found) for _, found in Predictor(network, confidence=0.05, iou=iou).predict(source))
        for iou in (0.1, 0.5, 0.9)
    ]
    assert counts[0] < counts[1] < counts[2]
