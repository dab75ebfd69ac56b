"""What a run logs of its examples and draws: by hand, against NumPy, and on a store with a bad image."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isod.data.objects import Annotation
from isod.data.store.address import write_text
from isod.data.store.split import CropStore
from isod.data.store.writer import Row, commit, write_fragment
from isod.errors import InputError
from isod.sampling.table import Draw
from isod.training.statistics import Moments, RunStatistics, StepResult, example_losses, object_margins
from isod.training.stream import Batch
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from tests.sampling.outcomes import of_maps
from tests.training.test_resume import HOLDOUT
from tests.training.tiny_run import run_here, tiny_run

CPU = torch.device("cpu")


def step(scores, class_losses=None, box_losses=None, margins=None):
    size = len(scores)
    parts = [np.zeros(size) if part is None else np.array(part, float) for part in (class_losses, box_losses, margins)]
    return StepResult(np.array(scores, float), *parts, {"train/loss": float(size)}, np.zeros(size, bool))


# --- correlation -----------------------------------------------------------------------------------------------------

number = st.floats(-100, 100)


@given(st.lists(st.tuples(number, number), min_size=3, max_size=40), st.integers(1, 7))
@settings(max_examples=200)
def test_correlation_is_numpys_however_the_pairs_are_cut_into_batches(pairs, size):
    x, y = np.array(pairs).T
    moments = Moments()
    for start in range(0, len(x), size):
        moments = Moments(moments.state())  # and through a checkpoint
        moments.add(x[start : start + size], y[start : start + size])
    if x.std() < 1e-3 or y.std() < 1e-3:
        return
    assert moments.correlation() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_correlation_by_hand_and_per_window():
    """Scores 1, 2, 3 with class losses 2, 4, 6 (r = 1) and box losses 3, 2, 1 (r = −1); then no variance at all."""
    record = RunStatistics(4)
    record.add(np.array([0, 1, 2]), step([1, 2, 3], [2, 4, 6], [3, 2, 1]))
    window = record.close_window()
    assert window["sampler/correlation_class_loss"] == pytest.approx(1)
    assert window["sampler/correlation_box_loss"] == pytest.approx(-1)
    record.add(np.array([0, 1, 2]), step([0, 0, 0], [2, 4, 6]))
    assert math.isnan(record.close_window()["sampler/correlation_class_loss"])


def test_correlation_is_that_of_what_is_drawn_by():
    """Scores 1, 2, 3 less 0, 2, 4 are 1, 0, −1. A score of 0 stays one, as in the table: 0, 1, 0, and not −9."""
    record = RunStatistics(4, offset=np.array([0.0, 2.0, 4.0, 9.0]))
    record.add(np.array([0, 1, 2]), step([1, 2, 3], [2, 4, 6], [3, 2, 1]))
    window = record.close_window()
    assert window["sampler/correlation_class_loss"] == pytest.approx(-1)
    assert window["sampler/correlation_box_loss"] == pytest.approx(1)
    record.add(np.array([3, 0, 1]), step([0, 1, 2], [0, 1, 0], [0, 1, 0]))
    assert record.close_window()["sampler/correlation_class_loss"] == pytest.approx(1)


# --- draws -----------------------------------------------------------------------------------------------------------


def test_repeats_by_hand():
    """Batches (0, 1), (1, 1), (2, 0): within them 0, 1/2 and 0 repeat; of what came before 0, 2/2 and 1/2."""
    record = RunStatistics(4, wrong=np.array([False, True, False, False]))
    for batch in ([0, 1], [1, 1], [2, 0]):
        record.add(np.array(batch), step([1.0, 2.0]))
    window = record.close_window()
    assert window["sampler/repeats"] == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert window["sampler/recent_repeats"] == pytest.approx((0 + 1 + 1 / 2) / 3)
    assert window["sampler/wrong_labels"] == pytest.approx(3 / 6)  # example 1 was drawn three times of six
    assert window["train/loss"] == 2
    assert "data/unreadable" not in window


def test_recent_means_ten_batches():
    record = RunStatistics(100)
    for number in [0, *range(1, 11), 0]:  # ten batches lie between the two draws of example 0
        record.add(np.array([number]), step([1.0]))
    assert record.close_window()["sampler/recent_repeats"] == 0
    for number in [0, *range(1, 10), 0]:
        record.add(np.array([50 + number]), step([1.0]))
    assert record.close_window()["sampler/recent_repeats"] == pytest.approx(1 / 11)


def test_margins_are_averaged_over_validations():
    """Example 0 has margins 1, then 3, at two validations: 2. Example 1 is drawn before the second only. 2 has none."""
    record = RunStatistics(4)
    record.add(np.array([0, 2]), step([1, 1], margins=[5, math.nan]))
    record.add(np.array([0, 0]), step([1, 1], margins=[7, 1]))  # the newest counts
    record.close_window()
    record.add(np.array([0, 1]), step([1, 1], margins=[3, -4]))
    record.close_window()
    np.testing.assert_array_equal(record.examples()["margin"], np.array([2, -4, math.nan, math.nan], np.float32))


def test_the_state_of_a_record_survives_a_checkpoint(tmp_path):
    wrong = np.array([True, False, False, False])
    record, other = RunStatistics(4, wrong), RunStatistics(4, wrong)
    record.add(np.array([0, 2]), step([1, 4], [1, 2], [2, 1], [0.5, math.nan]))
    record.close_window()
    record.add(np.array([2, 3]), step([2, 3], [5, 2], [1, 7], [1, 2]))
    torch.save(record.state_dict(), tmp_path / "record.pt")
    other.load_state_dict(torch.load(tmp_path / "record.pt", weights_only=True))
    for each in (record, other):
        each.add(np.array([0, 3]), step([2, 1], [3, 2], [3, 3], [-1, 4]))
    assert other.close_window() == record.close_window()
    np.testing.assert_array_equal(other.examples()["margin"], record.examples()["margin"])


# --- per example, from the maps --------------------------------------------------------------------------------------


def outcome_of(**maps):
    """One image, two classes, a map of one row and four columns."""
    values = {
        "logits": torch.zeros(1, 3, 1, 4),
        "labels": torch.tensor([[[1, 1, 2, 0]]]),
        "care": torch.ones(1, 1, 4, dtype=torch.bool),
        "object_index": torch.tensor([[[0, 0, 1, -1]]]),
        "class_loss": torch.tensor([[[1.0, 2.0, 3.0, 10.0]]]),
        "box_loss": torch.tensor([[[0.5, 0.7, 0.9, 0.0]]]),
        "iou": torch.zeros(1, 1, 4),
        "object_area": torch.tensor([[64.0, 64.0]]),
    }
    return of_maps(**(values | maps))


def test_losses_per_example_by_hand():
    """Class: (1 + 2 + 3 + 10)/4; with the third location don't-care (1 + 2 + 10)/3. Box: (0.5 + 0.7 + 0.9)/3."""
    class_losses, box_losses = example_losses(outcome_of())
    torch.testing.assert_close(class_losses, torch.tensor([4.0]))
    torch.testing.assert_close(box_losses, torch.tensor([0.7]))
    care = torch.tensor([[[True, True, False, True]]])
    class_loss = torch.tensor([[[1.0, 2.0, 0.0, 10.0]]])
    class_losses, _ = example_losses(outcome_of(care=care, class_loss=class_loss))
    torch.testing.assert_close(class_losses, torch.tensor([13 / 3]))


def test_margins_per_example_by_hand():
    """Object 0, class 1: margins 3 − 1 = 2 and 0 − 4 = −4, mean −1. Object 1, class 2: 5 − 0 = 5. Mean (−1 + 5)/2 = 2.
    The background does not count; a don't-care object neither; an image without an object has none."""
    logits = torch.tensor([[[0.0, 4, 0, 0], [3, 0, 0, 9], [1, 1, 5, 0]]])[:, :, None]  # [1, 3, 1, 4]
    torch.testing.assert_close(object_margins(outcome_of(logits=logits)), torch.tensor([2.0]))
    care = torch.tensor([[[True, True, False, True]]])
    torch.testing.assert_close(object_margins(outcome_of(logits=logits, care=care)), torch.tensor([-1.0]))
    empty = outcome_of(logits=logits, object_index=torch.full((1, 1, 4), -1))
    assert object_margins(empty).isnan().all()


# --- an image that decodes no more -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_store(tiny_store, tmp_path_factory):
    """The tiny store with two images of each split cut short."""
    uri, store = str(tmp_path_factory.mktemp("bad") / "store"), CropStore.open(tiny_store)
    checksums = {}
    for name, bad in (("train", (3, 40)), ("val", (0, 5))):
        split = store.split(name)
        notes = split.annotations()
        images = split.read_encoded(np.arange(len(split)))
        rows = [
            Row(i, notes.frame_ids[i], image[:40] if i in bad else image, None,
                Annotation(notes.boxes[i], notes.labels[i], notes.dont_care[i]), store.meta.crop_size)
            for i, image in enumerate(images)
        ]  # fmt: skip
        checksums[name] = commit(uri, name, [write_fragment(uri, name, rows)])
    write_text(uri, "store.json", replace(store.meta, checksums=checksums).to_json())
    return uri


@pytest.mark.parametrize("decode_on_device", [False, True])
def test_an_image_that_decodes_no_more_costs_one_example_and_not_the_run(bad_store, tmp_path, decode_on_device, caplog):
    config = tiny_run(iterations=24, validate_every=8, decode_on_device=decode_on_device)
    run_here(config, bad_store, tmp_path / "run", workers=2)
    about = [line for line in caplog.messages if "does not decode" in line]
    for index in (3, 40):
        (line,) = (line for line in about if f"the image of training example {index} " in line)
        assert "it keeps its index, loss weight 0, score 0" in line
    assert sum("validation example" in line for line in about) == 2
    metrics = pd.read_csv(tmp_path / "run/metrics.csv")
    assert metrics["data/unreadable"].tolist() == [2, 2, 2]
    assert np.isfinite(metrics["train/loss"]).all()
    examples = pd.read_parquet(tmp_path / "run/examples.parquet")
    assert examples["index"].tolist() == list(range(64))
    lost = examples.loc[[3, 40]]
    assert (lost["mean_importance"] == 0).all()
    assert (lost["draw_count"] >= 1).all()
    assert lost["draw_count"].mean() < examples["draw_count"].mean()


@pytest.mark.parametrize("seed", [0, 1, 2])  # which of the bad ones are held out depends on it
def test_a_hold_out_model_scores_the_others(bad_store, tmp_path, seed):
    config = replace(tiny_run("LIS-RHO", iterations=8, seed=seed), holdout=HOLDOUT)
    run_here(config, bad_store, tmp_path / "run")
    (scores,) = (np.load(path) for path in (tmp_path / "run/holdout").glob("*.npy"))
    assert scores[[3, 40]].tolist() == [0, 0]
    assert (scores > 0).sum() >= 64 - 2 - 16


def test_a_bad_image_changes_no_gradient(bad_store):
    """The loss of a batch is the same whatever stands in the place of the image that did not decode."""
    store = CropStore.open(bad_store)
    crops = store.split("train").read([1, 3], quarantine=True)
    assert crops.unreadable.tolist() == [False, True]
    assert not crops.images[1].any()
    assert crops.objects.counts[1] == 0
    ones = np.ones(2)
    draw = Draw(crops.indices, ones, ones, 0, 0)
    trainer = Trainer(tiny_run(), store.meta, CPU)
    trainer.model.eval()  # batch statistics would let one image reach the other
    trainer.model.train = lambda: None
    result = trainer.step(Batch(0, draw, crops))
    assert result.scores[1] == 0
    assert result.scores[0] > 0
    other = crops.images.copy()
    other[1] = np.random.default_rng(0).integers(0, 255, other[1].shape)
    again = Trainer(tiny_run(), store.meta, CPU)
    again.model.eval()
    again.model.train = lambda: None
    assert again.step(Batch(0, draw, replace(crops, images=other))).losses == result.losses


def test_without_quarantine_a_bad_image_is_an_error(bad_store):
    with pytest.raises(InputError, match=r"the image of index 3 .* does not decode"):
        CropStore.open(bad_store).split("train").read([3])


def test_validation_leaves_bad_images_out(bad_store, caplog):
    crops = ValidationCrops(CropStore.open(bad_store).split("val"), 8)
    for _ in range(2):
        seen = np.concatenate([batch.indices for batch in crops])
        np.testing.assert_array_equal(seen, np.setdiff1d(np.arange(16), [0, 5]))
    assert caplog.messages == [
        "the image of validation example 0 does not decode: it is left out of every metric",
        "the image of validation example 5 does not decode: it is left out of every metric",
    ]
