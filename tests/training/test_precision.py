"""Passes in bfloat16, also on a CPU: what they change and what they must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from isod.config.settings import DetectorConfig
from isod.data.store.split import CropStore
from isod.detector.model import DETECTORS
from isod.errors import InputError
from isod.training.trainer import Trainer
from tests.training.test_online_selection import first_batch
from tests.training.test_resume import CPU, assert_same_results, go, interrupt_at
from tests.training.tiny_run import DETECTOR, tiny_run

SMALL = DetectorConfig(pyramid_channels=64, anchor_scale=0.25, proposals=16)
EPSILON = 2**-8  # half a unit in the last place of bfloat16, relative


CHOOSING = ("ssdlite", "faster_rcnn", "detr")  # negatives, proposals or matches, which rounding can swap


@pytest.mark.parametrize(
    "name", ["thesis", *(pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS if name != "thesis")]
)
def test_losses_and_scores_are_those_of_float32_to_the_precision_of_bfloat16(tiny_store, name):
    """The same weights and batch. Rounding of each layer adds up, so several units; and it is there at all."""
    store, detector = CropStore.open(tiny_store), DETECTOR if name == "thesis" else replace(SMALL, name=name)
    results = {}
    for precision in ("float32", "bfloat16"):
        config = replace(tiny_run(precision=precision), detector=detector)
        trainer = Trainer(config, store.meta, CPU)
        results[precision] = trainer.step(first_batch(config, store))
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    expected, found = results["float32"], results["bfloat16"]
    assert found.losses == pytest.approx(expected.losses, rel=0.25 if name in CHOOSING else 8 * EPSILON)
    if name not in CHOOSING:
        np.testing.assert_allclose(found.scores, expected.scores, rtol=16 * EPSILON, atol=1e-3)
    assert (found.scores != expected.scores).any()


def test_scores_hold_more_digits_than_bfloat16(tiny_store):
    """A score that had been bfloat16 on its way would be unchanged by a conversion to it and back."""
    store, config = CropStore.open(tiny_store), tiny_run(precision="bfloat16")
    result = Trainer(config, store.meta, CPU).step(first_batch(config, store))
    for values in (result.scores, result.class_losses, result.box_losses):
        rounded = torch.as_tensor(values).bfloat16().double().numpy()
        assert (rounded != values).mean() > 0.5


def test_automatic_is_float32_on_a_cpu_whatever_it_could_do(tiny_store):
    store = CropStore.open(tiny_store)
    assert Trainer(tiny_run(), store.meta, CPU).precision == "float32"
    results = [
        Trainer(tiny_run(precision=precision), store.meta, CPU).step(first_batch(tiny_run(), store))
        for precision in ("auto", "float32")
    ]
    np.testing.assert_array_equal(results[0].scores, results[1].scores)


def test_a_run_in_bfloat16_goes_on_to_the_last_bit_and_not_in_float32(tiny_store, tmp_path):
    config = tiny_run(iterations=20, validate_every=7, precision="bfloat16")
    whole = go(config, tiny_store, tmp_path / "whole")
    halves = tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, halves, listen=interrupt_at(14))
    other = replace(config, training=replace(config.training, precision="float32"))
    with pytest.raises(InputError, match=r"training.precision was bfloat16 and is float32"):
        go(other, tiny_store, halves, resume=True)
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)


def test_what_was_automatic_on_a_gpu_does_not_go_on_in_float32(tiny_store):
    trainer = Trainer(tiny_run(), CropStore.open(tiny_store).meta, CPU)
    state = trainer.state_dict()
    trainer.load_state_dict(state)
    with pytest.raises(InputError, match="passes in bfloat16, and on this device they are in float32"):
        trainer.load_state_dict({**state, "precision": "bfloat16"})
    del state["precision"]
    trainer.load_state_dict(state)
