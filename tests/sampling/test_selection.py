"""Which of a step's candidates train, checked by hand, by frequencies and by the law of its weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isod.errors import InputError
from isod.sampling import ImportanceSampler, ImportanceTable, SamplerConfig
from isod.sampling.catalogue import SELECTIONS, find_selection
from isod.sampling.samplers import SAMPLERS

scores_of_candidates = st.lists(st.floats(0, 1e6), min_size=2, max_size=40).map(np.array)


def rng(step=0):
    return np.random.default_rng([7, step])


def test_the_highest_and_of_equal_ones_the_first():
    places, weights = find_selection("top")(np.array([1.0, 3.0, 2.0, 3.0, 2.0, -np.inf]), 3, rng())
    assert places.tolist() == [1, 3, 2]
    assert weights.tolist() == [1, 1, 1]


@given(scores_of_candidates, st.integers(0, 1000), st.data())
@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_gives_as_many_as_asked_for_and_the_same_again(name, scores, step, data):
    count = data.draw(st.integers(1, len(scores)))
    places, weights = find_selection(name)(scores, count, rng(step))
    assert len(places) == len(weights) == count
    assert 0 <= places.min() <= places.max() < len(scores)
    if name != "proportional":
        assert len(set(places.tolist())) == count
        assert (weights == 1).all()
    again = find_selection(name)(scores, count, rng(step))
    assert (again.places == places).all()
    assert (again.weights == weights).all()


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 30.0]), st.floats(-5, 5)), min_size=2, max_size=8))
def test_weights_of_a_proportional_choice_are_unbiased(candidates):
    """The weighted mean over 20 thousand chosen ones is the mean over the candidates, within six standard errors, that
    is of numbers v/(n·p) with probabilities p. What scores 0 has nothing to give, unless all do."""
    scores, values = map(np.array, zip(*candidates, strict=True))
    p = scores / scores.sum() if scores.any() else np.full(len(scores), 1 / len(scores))
    values = np.where(p > 0, values, 0.0)
    places, weights = find_selection("proportional")(scores, 20_000, rng())
    spread = np.sqrt((values[p > 0] ** 2 / p[p > 0]).sum()) / len(scores)
    assert abs((weights * values[places]).mean() - values.mean()) <= 6 * spread / np.sqrt(20_000) + 1e-9


def test_a_score_of_zero_is_chosen_only_where_all_are_zero():
    choose = find_selection("proportional")
    assert set(choose(np.array([0.0, 2.0, 0.0, 1.0, 0.0]), 500, rng()).places.tolist()) == {1, 3}
    places, weights = choose(np.zeros(4), 500, rng())
    assert set(places.tolist()) == {0, 1, 2, 3}
    assert (weights == 1).all()


@pytest.mark.parametrize("batches", [2, 3, 4])
def test_selective_backprop_keeps_by_a_power_of_the_percentile(batches):
    """Jiang et al.'s CDF^β with β = m − 1: of 24 candidates, rank r is kept in ((r + ½)/24)^β of 6000 steps, which add
    up to a batch within 1 %. Five standard errors."""
    scores = np.random.default_rng(1).permutation(24).astype(float)
    kept = np.zeros(24)
    for step in range(6000):
        places, _ = find_selection("percentile")(scores, 24 // batches, rng(step))
        kept[scores[places].astype(int)] += 1
    expected = ((np.arange(24) + 0.5) / 24) ** (batches - 1)
    assert expected.sum() == pytest.approx(24 / batches, rel=0.01)
    error = 5 * np.sqrt(expected * (1 - expected) / 6000) + 0.01 * expected
    assert (abs(kept / 6000 - expected) <= error).all()


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"candidates": 0}, "sampler candidates must be ≥ 1, got 0"),
        ({"candidates": 2}, "sampler candidates > 1 needs a heuristic to choose those that train by, got 2"),
        ({"selection": "tops"}, r"sampler selection must be one of top, .* got 'tops'; did you mean 'top'\?"),
        ({"scorer": "predictor"}, "scorer 'predictor' scores candidates, and there are none: candidates must be > 1"),
        ({"scorer": "me"}, "sampler scorer must be one of detector, predictor, got 'me'"),
        (
            {"heuristic": "loss", "candidates": 2, "scorer": "predictor", "prior": "progress"},
            "sampler prior 'progress' wants to see all that is drawn: scorer must be 'detector', got 'predictor'",
        ),
        (
            {"heuristic": "loss", "strategy": "sequential", "holdout": True, "candidates": 2,
             "selection": "proportional"},
            "holdout makes scores negative: selection must be one of top, percentile, got 'proportional'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_refused(settings, rule):
    with pytest.raises(InputError, match=rule):
        SamplerConfig(name="mine", **settings)


def test_a_loop_of_ones_own_is_told_to_choose_itself():
    table = ImportanceTable(20, seed=0, sampler=SAMPLERS["online-top"])
    with pytest.raises(InputError, match=r"'online-top' trains on a part of what it draws.*isod.sampling.selection$"):
        ImportanceSampler(table, batch_size=4)
