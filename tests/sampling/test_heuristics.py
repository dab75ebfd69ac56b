"""Every heuristic at a = IoU = 0.01, 0.5 and 0.99: which of the three it prefers is what it is for."""

import math

import pytest
import torch

from isod.outcome import Outcome
from isod.sampling.catalogue import HEURISTICS, find_heuristic
from tests.sampling.outcomes import of_maps

AT = (0.01, 0.5, 0.99)


def outcome_at(*values: float, background: bool = False) -> Outcome:
    """One image per value, one location each: two classes, true-class probability = IoU = value."""
    a = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
    true = 0 if background else 1
    logits = torch.stack([torch.zeros_like(a), torch.zeros_like(a)], dim=1)
    logits[:, true] = torch.logit(a)
    owner = torch.full(a.shape, -1 if background else 0)
    return of_maps(
        logits=logits.float(),
        labels=torch.full(a.shape, true),
        care=torch.ones(a.shape, dtype=torch.bool),
        object_index=owner,
        class_loss=-a.log().float(),
        box_loss=(1 - a).float() * (not background),
        iou=a.float() * (not background),
        object_area=torch.full((len(values), 1), 64.0),
    )


# heuristic: (class scores, box scores) at a = IoU = 0.01, 0.5, 0.99, worked out by hand; None where the part is 0
FLOOR = -math.log(1e-6)
EXPECTED = {
    "loss": ([4.60517, 0.693147, 0.0100503], [0.99, 0.5, 0.01]),
    "error": ([4.60517, 0.693147, 0.0100503], [4.60517, 0.693147, 0.0100503]),
    "uncertainty": ([0.0404054, FLOOR, 0.0404054], [0.0404054, FLOOR, 0.0404054]),
    "uncertainty_as_printed": ([3.228926, 0.0, 3.228926], [3.228926, 0.0, 3.228926]),
    "asymmetric_uncertainty": ([1.426700, FLOOR, 0.0404054], [1.426700, FLOOR, 0.0404054]),
    "bounded_error": ([0.99, 0.5, 0.01], [0.99, 0.5, 0.01]),
    "error_vector_norm": ([1.400071, 0.707107, 0.0141421], [0.99, 0.5, 0.01]),  # √2·(1 − a) with two classes
    "gradient_norm": ([1.400071, 0.707107, 0.0141421], None),
    "margin": ([4.60517, 0.693147, 0.0100503], [1.298679, 0.693147, 0.318679]),  # −log a with two classes
    "background_aware": ([0.0404054, FLOOR, 0.0404054], [0.0404054, FLOOR, 0.0404054]),
}
# from the most to the least preferred of a = 0.01, 0.5, 0.99
ORDER = dict.fromkeys(HEURISTICS, (0.01, 0.5, 0.99)) | {
    "asymmetric_uncertainty": (0.5, 0.01, 0.99),
    "uncertainty": (0.5, None),  # the other two tie
    "background_aware": (0.5, None),
    "uncertainty_as_printed": (None, 0.5),
}


@pytest.mark.parametrize("name", HEURISTICS)
def test_values_and_order(name):
    class_map, box_map = find_heuristic(name)(outcome_at(*AT))
    for score_map, expected in zip((class_map, box_map), EXPECTED[name], strict=True):
        score = score_map.flatten()
        assert score.dtype == torch.float32
        if expected is None:
            assert (score == 0).all()
            continue
        torch.testing.assert_close(score, torch.tensor(expected), rtol=2e-4, atol=2e-6)
        by_a = dict(zip(AT, score.tolist(), strict=True))
        known = [by_a[a] for a in ORDER[name] if a is not None]
        if len(known) == 3:
            assert known[0] > known[1] > known[2]
        elif ORDER[name][0] == 0.5:
            assert by_a[0.5] > max(by_a[0.01], by_a[0.99])
        else:
            assert by_a[0.5] < min(by_a[0.01], by_a[0.99])


@pytest.mark.parametrize("name", HEURISTICS)
def test_finite_and_not_negative_at_the_ends(name):
    ends = outcome_at(1e-30, 1e-7, 0.5, 1 - 1e-7, 1.0)
    ends = Outcome(**{**vars(ends), "logits": ends.logits.clamp(-100, 100)})
    for score_map in find_heuristic(name)(ends):
        assert score_map.isfinite().all()
        assert (score_map >= 0).all()


def test_asymmetric_uncertainty_does_not_fall_to_zero_where_confidently_wrong():
    class_map, _ = find_heuristic("asymmetric_uncertainty")(outcome_at(1e-6, 0.2, 0.49, 0.6))
    assert class_map.flatten()[0] == pytest.approx(2 * math.log(2), abs=1e-4)
    assert (class_map.flatten()[:3].diff() > 0).all()  # rises towards the boundary
    symmetric, _ = find_heuristic("uncertainty")(outcome_at(0.6))
    assert class_map.flatten()[3] == pytest.approx(symmetric.item())


def test_background_aware_raises_the_background_mean_by_the_false_positives_mean_loss():
    # Four background locations of one image, one of them a confident false positive: a = 0.1.
    outcome = outcome_at(0.9, 0.9, 0.9, 0.1, background=True)
    one_image = {
        name: value[:1] if name in ("object_area", "object_labels") else value.transpose(0, -1)
        for name, value in vars(outcome).items()
        if isinstance(value, torch.Tensor)
    }
    outcome = Outcome(**one_image)
    plain, _ = find_heuristic("uncertainty")(outcome)
    aware, _ = find_heuristic("background_aware")(outcome)
    assert (aware.mean() - plain.mean()).item() == pytest.approx(-math.log(0.1), rel=1e-5)


def test_margin_ignores_all_but_the_best_other_class():
    outcome = outcome_at(0.5)
    logits = torch.tensor([0.0, 1.0, 3.0, 2.0]).view(1, 4, 1)  # true class 1: margin 1 − 3
    class_map, _ = find_heuristic("margin")(Outcome(**{**vars(outcome), "logits": logits}))
    assert class_map.item() == pytest.approx(math.log1p(math.exp(2)))
