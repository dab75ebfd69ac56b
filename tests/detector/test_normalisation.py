"""The object-normalised loss: by hand, against the object-wise reduction of the scores, and as a training option."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from isod.cli.main import build_parser
from isod.cli.train import run_settings
from isod.config.presets import PRESETS
from isod.config.record import flatten
from isod.config.settings import DetectorConfig, RunConfig, TrainingConfig
from isod.data.demo.planted import planted_meta, render
from isod.detector.thesis.inference import candidates
from isod.detector.thesis.loss import detection_loss
from isod.errors import InputError
from isod.objects import Objects
from isod.sampling import DrawSchedule, ImportanceTable, sample_scores
from isod.sampling.samplers import SAMPLERS
from isod.training.stream import LocalStream
from isod.training.trainer import Trainer

LARGE, SMALL = [0.0, 0, 16, 32], [24.0, 0, 32, 8]  # on a 4×4 map: two columns, 8 locations; one location


def objects(*images: list[tuple[list[float], int]]) -> Objects:
    """One list of (box, label) per image; label 0 is don't-care."""
    boxes = [np.array([box for box, _ in image], np.float32).reshape(-1, 4) for image in images]
    labels = [np.array([label for _, label in image], np.int64) for image in images]
    return Objects.from_lists(boxes, labels, [item == 0 for item in labels]).to(torch.device("cpu"))


def random_maps(images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, 3, 4, 4] that need gradients, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 3, 4, 4, generator=generator).requires_grad_()
    return logits, 4 * torch.rand(images, 4, 4, 4, generator=generator)


def maps_by_region(large: float, small: float, background: float) -> torch.Tensor:
    """[1, 3, 4, 4] logits whose cross-entropy with LARGE as class 1 and SMALL as class 2 is as given, per region."""
    wanted = torch.full((4, 4), background, dtype=torch.float64)
    wanted[:, :2], wanted[0, 3] = large, small
    true = torch.zeros(4, 4, dtype=torch.long)
    true[:, :2], true[0, 3] = 1, 2
    rest = torch.log((1 - torch.exp(-wanted)) / 2)  # what is left goes to the two other classes alike
    return rest.expand(3, 4, 4).scatter(0, true[None], -wanted[None])[None].float()


def test_objects_and_background_count_alike_by_hand():
    # 8 locations of cross-entropy 1 on the large object, 1 of 4 on the small one, 7 of 2 on the background
    logits = maps_by_region(1.0, 4.0, 2.0)
    offsets = torch.full((1, 4, 4, 4), 1.0)
    image = objects([(LARGE, 1), (SMALL, 2)])
    by_location, _ = detection_loss(logits, offsets, image)
    by_object, outcome = detection_loss(logits, offsets, image, normalisation="object")
    assert by_location.class_loss.item() == pytest.approx((8 * 1 + 1 * 4 + 7 * 2) / 16, rel=1e-5)
    assert by_object.class_loss.item() == pytest.approx((1 + 4 + 2) / 3, rel=1e-5)
    # every location predicts the 8×8 box around itself: the small object exactly, the large one with IoU 64/512
    assert by_location.box_loss.item() == pytest.approx(8 * (1 - 64 / 512) / 9, rel=1e-5)
    assert by_object.box_loss.item() == pytest.approx((1 - 64 / 512) / 2, rel=1e-5)
    assert outcome.class_loss[0, 3].item() == pytest.approx(4.0, rel=1e-5)  # the maps stay what they are
    balanced, _ = detection_loss(logits, offsets, image, normalisation="balanced")
    objects_part = 3 / (3 + math.sqrt(7))  # 9 locations of objects, 7 of background
    assert balanced.class_loss.item() == pytest.approx(objects_part * 2.5 + (1 - objects_part) * 2, rel=1e-5)
    assert balanced.box_loss.item() == pytest.approx((1 - 64 / 512) / 2, rel=1e-5)


def test_the_background_does_not_fade_beside_many_objects():
    # two images: 1, 4 and background 2 on 7 locations; background alone on 16. Objects (1 + 4)/2 on 9 locations
    logits = torch.cat([maps_by_region(1.0, 4.0, 2.0), maps_by_region(6.0, 6.0, 6.0)])
    images = objects([(LARGE, 1), (SMALL, 2)], [])
    empty = torch.log_softmax(logits[1], 0)[0]  # log of the background's probability
    balanced, _ = detection_loss(logits, torch.ones(2, 4, 4, 4), images, normalisation="balanced")
    objects_part = 3 / (3 + math.sqrt(23))
    background = (7 * 2 - empty.sum().item()) / 23
    expected = objects_part * 2.5 + (1 - objects_part) * background
    assert balanced.class_loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("normalisation", ["location", "object", "balanced"])
def test_the_shares_of_two_ranks_add_up_to_the_loss_of_the_batch(normalisation):
    logits, offsets = random_maps(2)
    images = [[(LARGE, 1), (SMALL, 2)], [(SMALL, 0)]]
    whole, _ = detection_loss(logits, offsets, objects(*images), normalisation=normalisation)
    seen: list[torch.Tensor] = []  # the counts of either rank, class and box; then their sum

    def part(rank: int, sum_counts) -> torch.Tensor:
        loss, _ = detection_loss(logits[rank : rank + 1], offsets[rank : rank + 1], objects(images[rank]),
                                 normalisation=normalisation, sum_counts=sum_counts)  # fmt: skip
        return torch.stack([loss.class_loss, loss.box_loss])

    for rank in (0, 1):
        part(rank, lambda counts: seen.append(counts) or counts)
    parts = [part(rank, lambda counts: seen[0] + seen[1]) for rank in (0, 1)]
    torch.testing.assert_close(sum(parts), torch.stack([whole.class_loss, whole.box_loss]))


def test_the_predicted_quality_is_the_iou_by_hand():
    """Every location predicts the 8×8 box around itself: IoU 1 for the small object, 64/512 for the large one's 8."""
    logits, image = maps_by_region(1.0, 4.0, 2.0), objects([(LARGE, 1), (SMALL, 2)])
    loss, _ = detection_loss(logits, torch.ones(1, 4, 4, 4), image, quality=torch.zeros(1, 4, 4))
    assert loss.extra.item() == pytest.approx(math.log(2), rel=1e-5)  # of a half, whatever the target
    said = torch.full((1, 4, 4), math.log(3))  # 3/4
    loss, _ = detection_loss(logits, torch.ones(1, 4, 4, 4), image, quality=said)
    right, wrong = -math.log(3 / 4), -math.log(1 / 4)
    large = 64 / 512 * right + (1 - 64 / 512) * wrong
    assert loss.extra.item() == pytest.approx((8 * large + right) / 9, rel=1e-5)
    loss, _ = detection_loss(logits, torch.ones(1, 4, 4, 4), image, quality=said, normalisation="object")
    assert loss.extra.item() == pytest.approx((large + right) / 2, rel=1e-5)


def test_a_score_is_the_geometric_mean_of_class_and_quality():
    logits = torch.zeros(1, 3, 4, 4)  # 1/3 for each class
    scores, _ = candidates(logits, torch.ones(1, 4, 4, 4), (32, 32), quality=torch.full((1, 4, 4), math.log(3)))
    torch.testing.assert_close(scores, torch.full((1, 2, 16), (1 / 3 * 3 / 4) ** 0.5))


def test_a_batch_is_the_mean_over_all_its_objects_and_weights_are_of_the_image():
    # image 0: two objects and background (1, 4 and 2); image 1: background alone, of log 3
    logits = torch.cat([maps_by_region(1.0, 4.0, 2.0), torch.zeros(1, 3, 4, 4)])
    offsets = torch.full((2, 4, 4, 4), 1.0)
    batch = objects([(LARGE, 1), (SMALL, 2)], [])
    plain, _ = detection_loss(logits, offsets, batch, normalisation="object")
    assert plain.class_loss.item() == pytest.approx((1 + 4 + 2 + math.log(3)) / 4, rel=1e-5)
    weights = torch.tensor([3.0, 0.5])
    weighted, _ = detection_loss(logits, offsets, batch, example_weights=weights, normalisation="object")
    assert weighted.class_loss.item() == pytest.approx((3 * 7 + 0.5 * math.log(3)) / 4, rel=1e-5)
    assert weighted.box_loss.item() == pytest.approx(3 * (1 - 64 / 512) / 2, rel=1e-5)


def test_a_dont_care_object_has_a_box_part_only():
    logits = maps_by_region(1.0, 4.0, 2.0)
    loss, _ = detection_loss(
        logits, torch.full((1, 4, 4, 4), 1.0), objects([(LARGE, 0), (SMALL, 2)]), normalisation="object"
    )
    assert loss.class_loss.item() == pytest.approx((4 + 2) / 2, rel=1e-5)
    assert loss.box_loss.item() == pytest.approx((1 - 64 / 512) / 2, rel=1e-5)


def test_of_one_image_it_is_its_loss_score():
    """The object-wise mean of §4.2.4, computed by the sampling package."""
    for seed in range(10):
        logits, offsets = random_maps(1, seed)
        image = objects([(LARGE, 1), (SMALL, 2), ([9.0, 9, 30, 30], 0), ([5.0, 17, 11, 23], 1)])
        loss, outcome = detection_loss(logits, offsets, image, normalisation="object")
        score = sample_scores(outcome, SAMPLERS["LIS"])
        torch.testing.assert_close((loss.class_loss + loss.box_loss).view(1), score)


def test_the_gradient_of_an_object_does_not_grow_with_its_size():
    gradients = {}
    for normalisation in ("location", "object"):
        logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
        loss, _ = detection_loss(
            logits, torch.ones(1, 4, 4, 4), objects([(LARGE, 1), (SMALL, 2)]), normalisation=normalisation
        )
        (loss.class_loss + loss.box_loss).backward()
        strength = logits.grad.norm(dim=1)[0]
        gradients[normalisation] = strength[:, :2].sum().item() / strength[0, 3].item()
    assert gradients["location"] == pytest.approx(8, rel=1e-5)
    assert gradients["object"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("image", [[], [([0, 0, 32, 32], 0)]], ids=["no object", "no class known"])
def test_a_part_without_objects_is_zero(image):
    logits, offsets = random_maps(1)
    loss, _ = detection_loss(logits, offsets.requires_grad_(), objects(image), normalisation="object")
    (loss.class_loss + loss.box_loss).backward()
    assert (loss.class_loss if image else loss.box_loss).item() == 0
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(offsets.grad).all()


def test_by_location_is_eq_4_1_to_the_last_bit():
    logits, offsets = random_maps(2)
    batch = objects([(LARGE, 1), (SMALL, 2)], [(SMALL, 0)])
    weights = torch.tensor([0.7, 1.9])
    loss, outcome = detection_loss(logits, offsets, batch, example_weights=weights)
    w = weights.view(2, 1)
    assert loss.class_loss.equal((outcome.class_loss * w).sum() / outcome.care.sum())
    assert loss.box_loss.equal((outcome.box_loss * w).sum() / (outcome.object_index >= 0).sum())


@pytest.mark.parametrize("sampler", ["UIS", "LIS-unbiased"])
def test_it_trains_with_any_sampler(sampler):
    split = render(32, rare_share=0.5, seed=0)
    weights = {}
    for normalisation in ("location", "object"):
        config = RunConfig(
            sampler=SAMPLERS[sampler],
            detector=DetectorConfig(width=0.125, blocks=(1, 1, 1, 1)),
            training=TrainingConfig(iterations=6, batch_size=8, loss_normalisation=normalisation),
        )
        table = ImportanceTable(len(split), sampler=config.sampler, seed=0)
        stream = LocalStream(split, table, DrawSchedule(table, batch_size=8, lag=0))
        trainer = Trainer(config, planted_meta(), torch.device("cpu"))
        for batch in stream.batches(0, 6):
            stream.send_scores(batch.step, batch.draw.indices, trainer.step(batch).scores)
        weights[normalisation] = trainer.model.head.weight.detach()
    assert not weights["location"].equal(weights["object"])


def test_it_is_an_option_of_the_command_line_and_recorded():
    options = build_parser().parse_args(["train", "s", "--out", "o", "--loss-normalisation", "object"])
    training = run_settings("UIS", "demo", options.assignments)[0].training
    assert training == replace(PRESETS["demo"].training, loss_normalisation="object")
    assert flatten(RunConfig(sampler=SAMPLERS["UIS"], training=training))["training.loss_normalisation"] == "object"
    with pytest.raises(InputError, match="loss_normalisation must be one of location, object, balanced, got 'image'"):
        TrainingConfig(loss_normalisation="image")
