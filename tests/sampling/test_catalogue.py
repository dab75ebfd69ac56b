"""Names of the catalogue and of somebody else's functions; what an outcome must hold; logits of either kind."""

import dataclasses
import math
import pickle
import subprocess
import sys

import pytest
import torch

from isod.errors import InputError
from isod.sampling import HEURISTICS, SAMPLERS, ImportanceTable, SamplerConfig, sample_scores
from isod.sampling.catalogue import (
    IOU,
    LOGITS,
    accepts_negative_scores,
    check_available,
    draws_in_proportion,
    find_heuristic,
    find_strategy,
)
from isod.sampling.samplers import draw_settings
from tests.sampling.outcomes import of_maps

OUTSIDE = "tests.sampling.outside"


def outcome(**changes):
    """One image of two locations: one of object 0, of class 1, with losses 2 and 3; one of background, with loss 1."""
    maps = {
        "labels": torch.tensor([[[1, 0]]]),
        "care": torch.ones(1, 1, 2, dtype=torch.bool),
        "object_index": torch.tensor([[[0, -1]]]),
        "class_loss": torch.tensor([[[2.0, 1.0]]]),
        "box_loss": torch.tensor([[[3.0, 0.0]]]),
        "object_area": torch.tensor([[64.0]]),
    }
    return of_maps(**(maps | changes))


def test_a_heuristic_and_a_reduction_of_somebody_else():
    """Mean of 2² and 1² (object and background), plus 3²; and the second largest of class 4 and 1, of box 9 and 0."""
    sampler = SamplerConfig(name="mine", heuristic=f"{OUTSIDE}:squared_loss")
    assert sample_scores(outcome(), sampler).tolist() == [(4 + 1) / 2 + 9]
    sampler = dataclasses.replace(sampler, reduction=f"{OUTSIDE}:second_largest")
    assert sample_scores(outcome(), pickle.loads(pickle.dumps(sampler))).tolist() == [1 + 0]


def test_a_strategy_of_somebody_else():
    sampler = SamplerConfig(name="mine", heuristic="loss", strategy=f"{OUTSIDE}:Highest", holdout=True)
    table = ImportanceTable(4, seed=0, sampler=pickle.loads(pickle.dumps(sampler)))
    table.update(range(4), [1.0, 5.0, 2.0, 0.0])
    assert table.draw(3).indices.tolist() == [1, 1, 1]
    assert accepts_negative_scores(sampler.strategy)
    assert not draws_in_proportion(sampler.strategy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heuristic": "los"}, "sampler heuristic must be one of loss, .*or package.module:function, got 'los'"),
        ({"reduction": "median"}, "sampler reduction must be one of mean, .* got 'median'"),
        ({"strategy": "greedy"}, "sampler strategy must be one of sequential, .* got 'greedy'"),
        ({"history": f"{OUTSIDE}:Highest"}, "sampler history must be one of latest"),
    ],
)
def test_a_name_that_is_none_is_rejected_with_those_there_are(settings, message):
    with pytest.raises(InputError, match=message):
        SamplerConfig(name="mine", **settings)


@pytest.mark.parametrize("name", ["tests.sampling.outside:nothing", "no.such.package:function", "tests.sampling:"])
def test_a_function_that_does_not_exist_is_a_sentence(name):
    with pytest.raises(InputError, match=f"heuristic '{name}' cannot be imported"):
        find_heuristic(name)
    with pytest.raises(InputError, match=f"strategy '{name}' cannot be imported"):
        find_strategy(name)


def test_what_a_detector_does_not_give_is_rejected_at_start_up():
    check_available(None, frozenset(), "mine")
    check_available("loss", frozenset(), "mine")
    check_available("margin", frozenset({LOGITS, IOU}), "mine")
    check_available(f"{OUTSIDE}:squared_loss", frozenset(), "mine")
    with pytest.raises(InputError, match=r"'mine' gives no iou and no logits, which heuristic 'margin' .*of loss$"):
        check_available("margin", frozenset(), "mine")
    with pytest.raises(InputError, match=r"no logits, which heuristic 'tests.sampling.outside:greedy_logits' needs"):
        check_available(f"{OUTSIDE}:greedy_logits", frozenset({IOU}), "mine")


@pytest.mark.parametrize("name", HEURISTICS)
def test_a_row_names_all_that_its_heuristic_needs(name):
    """With exactly that it computes; with anything of it missing it does not."""
    everything = {LOGITS: torch.zeros(1, 3, 1, 2), IOU: torch.zeros(1, 1, 2)}
    needs = HEURISTICS[name].needs
    find_heuristic(name)(outcome(**{key: everything[key] for key in needs}))
    for missing in needs:
        with pytest.raises(AssertionError, match="rejected at start-up"):
            find_heuristic(name)(outcome(**{key: everything[key] for key in needs - {missing}}))


def test_one_probability_per_class_by_hand():
    """Two classes, a sigmoid each. Location 0, of class 1, has p = (0.8, 0.3); location 1, background, (0.6, 0.1)."""
    p = torch.tensor([[0.8, 0.6], [0.3, 0.1]])  # [C, L]
    logits = torch.logit(p)[None, :, None]
    both = dataclasses.replace(outcome(logits=logits), activation="sigmoid")
    torch.testing.assert_close(both.foreground(), torch.tensor([[0.8, 0.6]]))
    norms = [math.hypot(0.8 - 1, 0.3), math.hypot(0.6, 0.1)]
    torch.testing.assert_close(both.error_norm(), torch.tensor([norms]))
    # class 1 against class 2 and the background's logit of 0; the background's 0 against the likelier class
    margins = [math.log(0.8 / 0.2) - 0.0, 0.0 - math.log(0.6 / 0.4)]
    torch.testing.assert_close(both.margin(), torch.tensor([margins]))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_error_norm_is_the_norm_of_the_gradient(activation):
    """Of −log a with respect to the logits, by autograd."""
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[0, 1, 2, 1]])
    if activation == "softmax":
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    else:
        target = torch.nn.functional.one_hot(labels, 4)[..., 1:].transpose(1, 2).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    found = of_maps(
        logits=logits.detach()[:, :, None], labels=labels[:, None], care=torch.ones(1, 1, 4, dtype=torch.bool),
        object_index=labels[:, None] - 1, class_loss=loss.detach()[:, None], box_loss=torch.zeros(1, 1, 4),
        object_area=torch.ones(1, 2),
    )  # fmt: skip
    found = dataclasses.replace(found, activation=activation)
    torch.testing.assert_close(found.error_norm(), gradient.norm(dim=1))


def test_what_decides_a_draw_is_what_it_was():
    """The names that a table's saved state had at commit 2c226b9: such a state still loads."""
    assert set(draw_settings(SAMPLERS["UIS"])) == {
        "strategy", "smoothing", "floor", "history", "momentum", "weight_exponent", "holdout", "half_life", "pressure",
        "share", "horizon",
    }  # fmt: skip


def test_sampling_needs_numpy_and_numba_alone():
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'ray', 'mlflow', 'lance', 'pandas', 'scipy', 'pyarrow', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from isod.sampling import DrawSchedule, ImportanceTable, SAMPLERS\n"
        "for sampler in SAMPLERS.values():\n"
        "    table = ImportanceTable(20, seed=0, sampler=sampler, run_length=100)\n"
        "    schedule = DrawSchedule(table, batch_size=4, lag=1, steps=9)\n"
        "    for step in range(9):\n"
        "        indices = schedule.draw(step).indices\n"
        "        schedule.update(step, indices, indices + 1.0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
