"""Scores against a loop in float64 that shares nothing with the vectorised code."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from isod.outcome import Outcome
from isod.sampling import REDUCTIONS, sample_scores
from isod.sampling.catalogue import find_heuristic
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from tests.sampling.outcomes import of_maps


def random_outcome(
    seed: int = 0, images: int = 6, classes: int = 3, h: int = 7, w: int = 11, objects: int = 4
) -> Outcome:
    """Overlapping objects, a don't-care object, an image of don't-care alone, one without objects, padding."""
    g = torch.Generator().manual_seed(seed)
    owner = torch.full((images, h, w), -1)
    care = torch.ones(images, h, w, dtype=torch.bool)
    area = torch.zeros(images, objects)
    label = torch.zeros(images, h, w, dtype=torch.int64)
    for image in range(images):
        count = [objects, 3, 2, 1, 0, 2][image % 6]
        for k in range(count):  # later boxes lie on top of earlier ones
            y, x = int(torch.randint(h - 2, (), generator=g)), int(torch.randint(w - 3, (), generator=g))
            owner[image, y : y + 3, x : x + 3 + k % 2] = k
            area[image, k] = 64.0 * 3 * (3 + k % 2)
            dont_care = image % 6 == 3 or (image % 6 in (1, 2) and k == 1)
            care[image, y : y + 3, x : x + 3 + k % 2] = not dont_care
            label[image, y : y + 3, x : x + 3 + k % 2] = 0 if dont_care else 1 + k % classes
    owner[5] = 0  # one object covers the image: no background, and the second object holds no location
    care[2, 0] = False  # a strip of unknown background
    logits = 3 * torch.randn(images, 1 + classes, h, w, generator=g)
    class_loss = torch.nn.functional.cross_entropy(logits, label, reduction="none") * care
    owned = owner >= 0
    iou = torch.rand(images, h, w, generator=g) * owned
    return of_maps(
        logits=logits,
        labels=label,
        care=care,
        object_index=owner,
        class_loss=class_loss,
        box_loss=(1 - iou + 0.1) * owned,
        iou=iou,
        object_area=area,
        object_labels=torch.arange(1, objects + 1).expand(images, objects).remainder(classes),
    )


def of_classes(outcome: Outcome, b: int, means: dict[int, float]) -> float:
    """Sum over classes of the highest mean; class 0, of background and unknown, a quarter."""
    highest: dict[int, float] = {}
    for owner, x in means.items():
        label = 0 if owner < 0 else int(outcome.object_labels[b, owner])
        highest[label] = max(highest.get(label, 0.0), x)
    return sum(x * (1 if label else 0.25) for label, x in highest.items())


def by_hand(outcome: Outcome, maps: tuple[Tensor, Tensor], reduction: str, sampler: SamplerConfig) -> list[float]:
    scores = []
    images, locations = outcome.labels.shape
    for b in range(images):
        parts = []
        for part, score_map in enumerate(maps):
            cells: dict[int, list[float]] = {}
            for i in range(locations):
                owner = int(outcome.object_index[b, i])
                if bool(outcome.care[b, i]) if part == 0 else owner >= 0:
                    cells.setdefault(owner, []).append(float(score_map[b, i].double()))
            every = [x for values in cells.values() for x in values]
            means = {owner: sum(values) / len(values) for owner, values in cells.items()}
            side = {owner: 1.0 if owner < 0 else math.sqrt(float(outcome.object_area[b, owner])) / 8 for owner in cells}
            parts.append(
                0.0
                if not cells
                else {
                    "mean": sum(means.values()) / len(means),
                    "sum": sum(means.values()),
                    "max": max(means.values()),
                    "rms": math.sqrt(sum(x * x for x in means.values()) / len(means)),
                    "area_mean": sum(side[owner] * x for owner, x in means.items()) / len(means),
                    "class_max": of_classes(outcome, b, means),
                    "masked_mean": sum(every) / len(every),
                    "norm": math.sqrt(sum(x * x for x in every)) / len(every),
                }[reduction]
            )
        scores.append(sampler.class_weight * parts[0] + sampler.box_weight * parts[1])
    return scores


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("heuristic", ["loss", "uncertainty"])
@pytest.mark.parametrize(("class_weight", "box_weight"), [(1.0, 1.0), (1.0, 0.0), (0.0, 2.0), (0.5, 3.0)])
def test_scores_by_hand(reduction, heuristic, class_weight, box_weight):
    outcome = random_outcome()
    sampler = SamplerConfig(
        name="x", heuristic=heuristic, reduction=reduction, class_weight=class_weight, box_weight=box_weight
    )
    got = sample_scores(outcome, sampler)
    expected = by_hand(outcome, find_heuristic(heuristic)(outcome), reduction, sampler)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), torch.tensor(expected, dtype=torch.float64), rtol=3e-6, atol=1e-6)


def test_dont_care_alone_has_a_box_part_only():
    outcome = random_outcome()
    outcome = dataclasses.replace(outcome, care=outcome.care & (outcome.object_index >= 0))  # no background either
    loss = SamplerConfig(name="x", heuristic="loss")
    classes_only = sample_scores(outcome, dataclasses.replace(loss, box_weight=0.0))
    boxes_only = sample_scores(outcome, dataclasses.replace(loss, class_weight=0.0))
    assert classes_only[3] == 0
    assert boxes_only[3] > 0
    assert boxes_only[4] == 0  # no object at all


def test_no_objects_in_the_whole_batch():
    outcome = random_outcome()
    none = torch.full_like(outcome.object_index, -1)
    zero = torch.zeros_like(outcome.iou)
    outcome = dataclasses.replace(
        outcome,
        object_index=none,
        labels=none + 1,
        iou=zero,
        box_loss=zero,
        object_area=torch.zeros(6, 0),
        object_labels=none[:, :0],
    )
    got = sample_scores(outcome, SamplerConfig(name="x", heuristic="loss"))
    expected = torch.stack([m[c].mean() for m, c in zip(outcome.class_loss, outcome.care, strict=True)])
    torch.testing.assert_close(got, expected)


def test_an_image_scores_the_same_alone_and_in_a_batch():
    outcome = random_outcome()
    for sampler in SAMPLERS.values():
        together = sample_scores(outcome, sampler)
        for b in range(len(together)):
            tensors = {name: value for name, value in vars(outcome).items() if isinstance(value, Tensor)}
            alone = Outcome(**{name: value[b : b + 1] for name, value in tensors.items()})
            torch.testing.assert_close(sample_scores(alone, sampler), together[b : b + 1], rtol=1e-6, atol=1e-7)


def test_every_named_sampler_scores():
    outcome = random_outcome(seed=1)
    for name, sampler in SAMPLERS.items():
        scores = sample_scores(outcome, sampler)
        assert scores.shape == (6,), name
        assert scores.isfinite().all(), name
        assert (scores >= 0).all(), name
        assert scores.any() == (sampler.heuristic is not None), name


def test_float32_under_autocast():
    outcome = random_outcome()
    sampler = SAMPLERS["UIS"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sample_scores(outcome, sampler)
    assert torch.equal(inside, sample_scores(outcome, sampler))
