"""Names of the catalogue and of somebody else's functions; what an outcome must hold; logits of either kind."""

import dataclasses
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from isod.errors import InputError
from isod.outcome import Outcome
from isod.sampling import HEURISTICS, SAMPLERS, ImportanceTable, Labels, SamplerConfig, sample_scores
from isod.sampling.catalogue import (
    IOU,
    LOGITS,
    check_available,
    find_heuristic,
    find_prior,
    find_strategy,
    strategy_properties,
)
from isod.sampling.scores.observations import observations
from isod.training.statistics import example_losses, object_margins
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
    table.set_offset(np.zeros(4))
    table.update(range(4), [1.0, 5.0, 2.0, 0.0])
    assert table.draw(3).indices.tolist() == [1, 1, 1]
    properties = strategy_properties(sampler.strategy)
    assert properties.accepts_negative_scores
    assert not properties.draws_in_proportion
    assert properties.summary == "Draws the highest score in every slot."


def test_a_strategy_of_somebody_else_resumes_and_another_one_rejects_its_state():
    """Its name is one of the settings that decide a draw."""
    sampler = SamplerConfig(name="mine", strategy=f"{OUTSIDE}:Highest")
    table, resumed = (ImportanceTable(4, seed=0, sampler=sampler) for _ in range(2))
    table.update(range(4), [1.0, 5.0, 2.0, 0.0])
    resumed.load_state_dict(table.state_dict())
    assert resumed.draw(2).indices.tolist() == table.draw(2).indices.tolist() == [1, 1]
    with pytest.raises(InputError, match="the saved table has sampler"):
        ImportanceTable(4, seed=0).load_state_dict(table.state_dict())


def test_a_strategy_that_lacks_something_is_rejected_with_what_it_is():
    with pytest.raises(InputError, match=r"outside:second_largest' has no draw, changed, .*: a strategy is a class"):
        ImportanceTable(4, seed=0, strategy=f"{OUTSIDE}:second_largest")


def test_a_hold_out_model_needs_a_strategy_that_says_so(monkeypatch):
    monkeypatch.delattr("tests.sampling.outside.Highest.accepts_negative_scores")
    sampler = SamplerConfig(name="mine", heuristic="loss", strategy=f"{OUTSIDE}:Highest", holdout=True)
    with pytest.raises(InputError, match=r"strategy '.*:Highest' does not accept: .* accepts_negative_scores must be"):
        ImportanceTable(4, seed=0, sampler=sampler)


def test_a_walk_gives_no_weights(monkeypatch):
    """The walk of algorithm 5 draws nearer q² than q: of two scores 1 and 2, without smoothing and the rule
    q(a) > 2·q(c), the second four times as often, 0.8 in place of the 2/3 that it reports."""
    table = ImportanceTable(2, seed=0, sampler=SamplerConfig(name="walk", strategy="rejection", smoothing=0.0))
    table.update([0, 1], [1.0, 2.0])
    draws = [table.draw(500) for _ in range(60)][20:]
    assert np.mean([draw.indices for draw in draws]) == pytest.approx(0.8, abs=0.02)
    assert {float(p) for draw in draws for p in draw.probabilities[draw.indices == 1]} == {2 / 3}
    for name in ("rejection", "uniform_rejection"):
        with pytest.raises(InputError, match=f"weight_exponent must be 0 with strategy '{name}': a walk does not"):
            SamplerConfig(name="mine", strategy=name, weight_exponent=1.0)
    monkeypatch.setattr("tests.sampling.outside.Highest.walks", True, raising=False)
    with pytest.raises(InputError, match=r"with strategy '.*:Highest', which walks, got 0.5"):
        ImportanceTable(4, seed=0, strategy=f"{OUTSIDE}:Highest", weight_exponent=0.5)
    with pytest.raises(InputError, match=r"prior '.*:Errors' counts what is drawn by its probability, which strat"):
        ImportanceTable(4, seed=0, strategy="rejection", prior=f"{OUTSIDE}:Errors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 0.9}, "momentum must be 0 unless history is 'momentum', which alone reads it, got 0.9"),
        ({"strategy": "sequential", "floor": 0.5}, "floor must be 0, and floor_from 1, with strategy 'sequential'"),
        ({"strategy": "replace", "floor_from": 0.5}, "floor must be 0, and floor_from 1, with strategy 'replace'"),
        ({"strategy": "prune", "floor": 0.5}, "strategy 'prune', which draws in epochs and mixes in no uniform draws"),
        *(
            ({"strategy": name, "weight_exponent": 1.0}, f"strategy '{name}': no weight makes up for examples that it")
            for name in ("replace", "self_paced", "exclude")
        ),
    ],
)
def test_a_setting_that_nothing_would_read(settings, message):
    with pytest.raises(InputError, match=message):
        SamplerConfig(name="mine", **settings)


def test_what_a_table_is_not_told_is_a_sentence(monkeypatch):
    for name in ("LIS-RHO", "LIS-RHO-rank", "online-RHO"):
        table = ImportanceTable(4, seed=0, sampler=SAMPLERS[name])
        with pytest.raises(InputError, match=f"'{name}' subtracts the scores of a hold-out model: .*set_offset"):
            table.draw(2)
        table.set_offset(np.zeros(4))
        table.draw(2)
    with pytest.raises(InputError, match=r"draws from a subset, the file keep\.csv, .*eligible="):
        ImportanceTable(4, seed=0, subset="keep.csv")
    ImportanceTable(4, seed=0, subset="keep.csv", eligible=[1, 2])
    for attribute, settings, message in (
        ("leaves_out", {"weight_exponent": 1.0}, "no weight makes up for examples that it does not draw, got 1.0"),
        ("in_epochs", {"floor": 0.5}, "draws in epochs and mixes in no uniform draws"),
    ):
        monkeypatch.setattr(f"tests.sampling.outside.Highest.{attribute}", True, raising=False)
        with pytest.raises(InputError, match=f"with strategy '.*:Highest'.*{message}"):
            ImportanceTable(4, seed=0, strategy=f"{OUTSIDE}:Highest", **settings)


def test_weights_of_a_strategy_are_not_multiplied_by_those_of_a_sampler(monkeypatch):
    """InfoBatch's 1/(1 − r) undoes the pruning alone: scores 1 and 3, r = ½, so that over many epochs either example
    trains with the same summed weight."""
    table = ImportanceTable(2, seed=0, strategy="prune", share=0.5, run_length=10**6)
    table.update([0, 1], [1.0, 3.0])
    summed = np.zeros(2)
    for _ in range(4000):
        draw = table.draw(1)
        summed[draw.indices] += draw.weights
    assert summed[0] / summed[1] == pytest.approx(1, abs=0.06)
    with pytest.raises(InputError, match="weight_exponent must be 0 with strategy 'prune', whose own weights undo"):
        SamplerConfig(name="mine", strategy="prune", weight_exponent=1.0)
    monkeypatch.setattr("tests.sampling.outside.Highest.gives_weights", True, raising=False)
    with pytest.raises(InputError, match=r"with strategy '.*:Highest', whose own weights undo the bias, got 1"):
        ImportanceTable(4, seed=0, strategy=f"{OUTSIDE}:Highest", weight_exponent=1)


def test_a_prior_of_another_package_that_lacks_something_is_a_sentence(monkeypatch):
    name = f"{OUTSIDE}:Errors"
    labels = Labels.from_lists([[1]] * 4, 1)
    ImportanceTable(4, seed=0, prior=name).set_labels(labels)
    for attribute, value, message in [
        ("observes", "errors", r"observes 'errors': it must be one of error, loss, or ''"),
        ("close_window", None, r"has no close_window: one that follows the training is a class with what"),
    ]:
        find_prior.cache_clear()
        with monkeypatch.context() as patch:
            if value is None:
                patch.delattr(f"tests.sampling.outside.Errors.{attribute}")
            else:
                patch.setattr(f"tests.sampling.outside.Errors.{attribute}", value)
            with pytest.raises(InputError, match=message):
                ImportanceTable(4, seed=0, prior=name).set_labels(labels)
    find_prior.cache_clear()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"heuristic": "los"},
            r"sampler heuristic must be one of loss, .*or package.module:function, got 'los'; did you mean 'loss'\?$",
        ),
        ({"heuristic": "a:b:c"}, "sampler heuristic must be .*, got 'a:b:c'"),
        ({"heuristic": "tests.sampling:"}, "sampler heuristic must be .*, got 'tests.sampling:'"),
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
        with pytest.raises(InputError, match=f"this detector's outcome has no {missing}, which the sampler's"):
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
    """The settings in a state that commit 2c226b9 saved, of self-paced in a run of 500 draws: it still loads."""
    table = ImportanceTable(5, seed=0, sampler=SAMPLERS["self-paced"], run_length=500)
    state = table.state_dict()
    state["sampler"] = {
        "strategy": "self_paced", "smoothing": 1.0, "floor": 0.0, "history": "latest", "momentum": 0.0,
        "weight_exponent": 0.0, "holdout": False, "half_life": 1000.0, "pressure": 100.0, "share": 0.5, "horizon": 0.5,
        "run_length": 500,
    }  # fmt: skip
    table.load_state_dict(state)
    for wrong in ({"share": 0.25}, {"run_length": 400}):
        with pytest.raises(InputError, match="the saved table has sampler"):
            table.load_state_dict(state | {"sampler": state["sampler"] | wrong})


def test_every_field_says_what_it_decides():
    """Of a sampler's settings: what decides the scores, what is a note, and all others what is drawn."""
    decides = {item.name: item.metadata.get("decides", "draw") for item in dataclasses.fields(SamplerConfig)}
    assert {name for name, what in decides.items() if what == "score"} == {
        "heuristic", "reduction", "class_weight", "box_weight",
    }  # fmt: skip
    assert {name for name, what in decides.items() if what == "nothing"} == {"name", "summary", "source"}


def test_one_loss_per_image():
    """0.5 · 3 + 2 · 4, also weighted by area; a heuristic that needs more than the losses is rejected."""
    alone = Outcome.of_images(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0]))
    sampler = SamplerConfig(name="mine", heuristic="loss", class_weight=0.5, box_weight=2.0)
    for reduction in ("mean", "max", "area_mean"):
        assert sample_scores(alone, dataclasses.replace(sampler, reduction=reduction)).tolist() == [9.5, 0.0], reduction
    assert [part.tolist() for part in example_losses(alone)] == [[3.0, 0.0], [4.0, 0.0]]
    assert object_margins(alone).isnan().all()
    assert sample_scores(Outcome.of_images(torch.tensor([3.0])), SAMPLERS["LIS"]).tolist() == [3.0]
    with pytest.raises(InputError, match="gives one loss per image, and reduction 'class_max' needs the losses of "):
        sample_scores(alone, dataclasses.replace(sampler, reduction="class_max"))
    with pytest.raises(InputError, match="gives one loss per image, and a prior that follows the training needs"):
        observations(alone, "error")
    for name, row in HEURISTICS.items():
        if row.needs:
            with pytest.raises(InputError, match="this detector's outcome has no"):
                sample_scores(alone, SamplerConfig(name="mine", heuristic=name))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": torch.zeros(1, 1, 2, dtype=torch.int64)}, r"labels must have shape \[B, L\], got \[1, 1, 2\]"),
        ({"care": torch.ones(1, 3, dtype=torch.bool)}, r"care must have shape \[1, 2\], got \[1, 3\]"),
        ({"iou": torch.zeros(2, 2)}, r"iou must have shape \[1, 2\], got \[2, 2\]"),
        ({"logits": torch.zeros(1, 2)}, r"logits must have shape \[1, K, 2\], got \[1, 2\]"),
        ({"logits": torch.zeros(1, 2, 3)}, r"logits must have shape \[1, 2, 2\], got \[1, 2, 3\]"),
        ({"object_labels": torch.zeros(1, 4, dtype=torch.int64)}, r"object_labels must have shape \[1, 1\]"),
        ({"activation": "tanh"}, "activation must be softmax or sigmoid, got 'tanh'"),
    ],
)
def test_an_outcome_of_another_shape_is_a_sentence(wrong, message):
    with pytest.raises(InputError, match=f"an outcome's {message}"):
        dataclasses.replace(outcome(), **wrong)


def test_sampling_needs_numpy_and_numba_alone():
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'ray', 'mlflow', 'lance', 'pandas', 'scipy', 'pyarrow', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from isod.sampling import DrawSchedule, ImportanceTable, Labels, SAMPLERS\n"
        "for sampler in SAMPLERS.values():\n"
        "    table = ImportanceTable(20, seed=0, sampler=sampler, run_length=100)\n"
        "    if sampler.prior:\n"
        "        table.set_labels(Labels.from_lists([[1], [2], []] * 6 + [[1]] * 2, 2, segments=['a'] * 20))\n"
        "    if sampler.holdout:\n"
        "        table.set_offset([0] * 20)\n"
        "    schedule = DrawSchedule(table, batch_size=4, lag=1, steps=9)\n"
        "    for step in range(9):\n"
        "        indices = schedule.draw(step).indices\n"
        "        schedule.update(step, indices, indices + 1.0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
