"""Loss, scores and per-example measures never wait for the host, so a GPU is never kept idle by them.

torch's fake tensors have shapes and no values: whatever would read a value back (``.item()``, a mask that decides a
shape, ``nonzero``) raises on them, as it would stall a GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from isod.detector.thesis.loss import detection_loss
from isod.objects import Objects
from isod.sampling import sample_scores
from isod.sampling.samplers import SAMPLERS
from isod.training.statistics import example_losses, object_margins

BATCH, CLASSES, OBJECTS = 4, 3, 5


def outcome_of(normalisation: str = "location"):
    """Loss and outcome of fake maps; to be called in a FakeTensorMode."""
    objects = Objects(
        boxes=torch.rand(BATCH, OBJECTS, 4),
        labels=torch.zeros(BATCH, OBJECTS, dtype=torch.int64),
        dont_care=torch.zeros(BATCH, OBJECTS, dtype=torch.bool),
        counts=torch.full((BATCH,), OBJECTS),
    )
    objects = objects.mirrored(torch.zeros(BATCH, dtype=torch.bool), 128)
    maps = [torch.rand(BATCH, channels, 8, 16) for channels in (1 + CLASSES, 4)]
    return detection_loss(*maps, objects, example_weights=torch.ones(BATCH), normalisation=normalisation)


def test_the_check_itself_catches_a_read():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.rand(3).sum().item()
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        torch.rand(3).nonzero()


@pytest.mark.parametrize("normalisation", ["location", "object"])
def test_loss_and_measures(normalisation):
    with FakeTensorMode():
        loss, outcome = outcome_of(normalisation)
        assert loss.class_loss.shape == loss.box_loss.shape == ()
        assert [part.shape for part in (*example_losses(outcome), object_margins(outcome))] == [(BATCH,)] * 3


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.heuristic])
def test_scores(name):
    with FakeTensorMode():
        assert sample_scores(outcome_of()[1], SAMPLERS[name]).shape == (BATCH,)
