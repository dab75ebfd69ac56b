"""Averaged weights and the warm-up of the learning rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from isod.config.settings import TrainingConfig
from isod.training.trainer import averaged, learning_rate
from tests.training.test_resume import assert_same_results, go, interrupt_at
from tests.training.tiny_run import tiny_run, weights_of


def test_the_average_by_hand():
    """The first update copies; the second moves by 1 − 2/11, the third by 1 − 3/12; later ones by 1 − decay."""
    layer = nn.BatchNorm1d(1)
    average = averaged(layer, 0.5)
    expected = 0.0
    for count, value in enumerate((8.0, 4.0, 16.0, *(2.0,) * 20)):
        with torch.no_grad():
            layer.weight.fill_(value)
            layer.running_mean.fill_(-value)
            layer.num_batches_tracked.fill_(count)
        average.update_parameters(layer)
        move = 1 - min(0.5, (1 + count) / (10 + count))
        expected = value if count == 0 else expected + move * (value - expected)
        if count == 1:
            assert expected == pytest.approx(8 + (9 / 11) * (4 - 8))
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.module.running_mean.item() == pytest.approx(-expected, rel=1e-5)
        assert average.module.num_batches_tracked.item() == count


def test_the_rate_rises_in_a_straight_line_and_then_falls():
    training = TrainingConfig(iterations=100, lr=0.8, warmup=4)
    assert [learning_rate(training, step) for step in (0, 1, 3, 4, 99)] == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])
    cosine = replace(training, lr_schedule="cosine")
    assert learning_rate(cosine, 50) == pytest.approx(0.4)
    assert learning_rate(cosine, 1) == pytest.approx(0.4, rel=1e-3)


def test_a_run_that_averages_is_resumed_to_the_last_bit(tiny_store, tmp_path):
    config = tiny_run(iterations=20, validate_every=7, ema=0.9, warmup=5, lr_schedule="cosine")
    whole = go(config, tiny_store, tmp_path / "whole")
    halves = tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, halves, listen=interrupt_at(7))
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)
    plain = go(replace(config, training=replace(config.training, ema=0.0)), tiny_store, tmp_path / "plain")
    one, other = weights_of(whole), weights_of(plain)
    assert one.keys() == other.keys()
    assert not all(torch.equal(one[name], other[name]) for name in one)
