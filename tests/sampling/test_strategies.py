"""Each strategy and history against its definition, worked out another way."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from isod.errors import InputError
from isod.sampling import ImportanceTable
from isod.sampling.catalogue import (
    HEURISTICS,
    HISTORIES,
    REDUCTIONS,
    STRATEGIES,
    find_heuristic,
    find_reduction,
    find_strategy,
)
from isod.sampling.kernels import updates
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.sampling.scores import heuristics, reductions
from isod.sampling.strategies.trees import Proportional
from tests.sampling.test_table import draws_follow, filled

# --- no score at all -------------------------------------------------------------------------------------------------

NO_ROWS = {"ObjectScores", "object_scores", "sample_scores"}  # what reductions are made of


def test_uniform_draws_with_replacement_whatever_the_scores():
    """Draws after the first epoch are independent: their counts pass a chi-square test, and a batch of 35 misses the
    share of the 50 examples that independent draws miss. The scores are unequal, which no sampler without a heuristic
    gives, so that it is the floor that makes the draw uniform."""
    table = ImportanceTable(50, sampler=SAMPLERS["uniform"], seed=0, run_length=100)
    assert table.effective_sample_size() == 1
    first = np.concatenate([table.draw(10).indices for _ in range(5)])
    assert sorted(first) == list(range(50))
    for _ in range(5):
        table.update(first[:10], 1.0 + first[:10])
        first = first[10:]
    batches = [table.draw(35) for _ in range(400)]
    for batch in batches[:3]:
        np.testing.assert_allclose(batch.probabilities, 1 / 50)
        np.testing.assert_array_equal(batch.weights, 1)
    counts = np.bincount(np.concatenate([batch.indices for batch in batches]), minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-3
    missed = np.mean([50 - len(set(batch.indices)) for batch in batches]) / 50
    assert missed == pytest.approx((1 - 1 / 50) ** 35, abs=0.01)


# --- rejection walks (Algorithm 5) -----------------------------------------------------------------------------------


def stationary(q: np.ndarray, proposals: np.ndarray, keep_best: bool) -> np.ndarray:
    """Where a walk settles, from its transition matrix (rows a, columns c)."""
    a, c = q[:, None], q[None, :]
    accept = c / (c + a) * ~(keep_best & (a > 2 * c))
    matrix = proposals[None, :] * accept
    matrix[np.arange(len(q)), np.arange(len(q))] += 1 - matrix.sum(1)
    return np.linalg.matrix_power(matrix, 1 << 20)[0]


def visits(strategy: str, q: np.ndarray, draws: int = 2500, n: int = 64) -> np.ndarray:
    """Visit frequencies of a walk on a fixed q, after it has settled."""
    table = filled(q, strategy=strategy, smoothing=0.0)
    for _ in range(200):
        table.draw(n)
    return np.bincount(np.concatenate([table.draw(n).indices for _ in range(draws)]), minlength=len(q)) / (draws * n)


def distance(p: np.ndarray, q: np.ndarray) -> float:
    """Total variation."""
    return float(np.abs(p / p.sum() - q / q.sum()).sum() / 2)


def test_rejection_settles_at_q_squared_where_scores_span_a_factor_of_two():
    q = np.linspace(1, 2, 12)
    frequency = visits("rejection", q)
    assert distance(frequency, q**2) < 0.01
    assert distance(frequency, q) > 0.08


def test_rejection_settles_near_q_squared_where_they_span_more():
    q = np.random.default_rng(0).uniform(0.05, 1, 30)
    q /= q.sum()
    frequency = visits("rejection", q)
    assert distance(frequency, stationary(q, q, keep_best=True)) < 0.015
    assert distance(frequency, q**2) < 0.12 < distance(frequency, q)


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_uniform_proposals_settle_at_q(spread):
    q = np.random.default_rng(1).lognormal(0, spread, 30)
    assert distance(visits("uniform_rejection", q), q) < 0.02


def test_rejection_compares_with_the_same_slot_of_the_draw_before():
    table = filled(np.array([1e6, 1.0, 1.0, 1.0]), strategy="rejection", smoothing=0.0, floor=0.5)
    previous = table.draw(16).indices
    for _ in range(50):
        indices = table.draw(16).indices
        assert (indices[previous == 0] == 0).all()  # q(a) > 2·q(c): never left while the score stands
        previous = indices
    table.update([0], [0.0])
    assert (table.draw(200).indices[:16] != 0).any()


def test_strategies_in_proportion_are_those_of_the_sum_tree():
    """Where a table's effective sample size is that of its scores."""
    assert [name for name, row in STRATEGIES.items() if row.draws_in_proportion] == [
        name for name in STRATEGIES if issubclass(find_strategy(name), Proportional)
    ]


def test_every_row_of_the_catalogue_leads_somewhere_and_every_function_has_one():
    """A public function of the two modules without a row could not be chosen."""
    for find, rows, module in ((find_heuristic, HEURISTICS, heuristics), (find_reduction, REDUCTIONS, reductions)):
        public = {f for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__ and callable(f)}
        here = {f for f in public if not f.__name__.startswith("_") and f.__name__ not in NO_ROWS}
        assert {find(name) for name in rows} == here
    assert all(hasattr(updates, name.upper()) for name in HISTORIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_differences_to_a_hold_out_model_are_drawn_by_strategies_that_bear_them(strategy):
    """Either refused, or probabilities that are none below 0 and sum to 1."""
    sampler = {"strategy": strategy, "holdout": True, "share": 0.25, "horizon": 0.5}
    if not STRATEGIES[strategy].accepts_negative_scores:
        with pytest.raises(InputError, match=f"sampler holdout makes scores negative.*got '{strategy}'"):
            SamplerConfig(name="mine", **sampler)
        return
    table = ImportanceTable(4, seed=0, run_length=100, **sampler)
    table.set_offset(np.ones(4))
    table.update(np.arange(4), [0.5, 2.0, 2.0, 0.0])
    draw = table.draw(4)
    if strategy != "exclude":  # which is uniform until the middle of the run
        lowest_too = strategy in ("self_paced", "sequential")
        assert (draw.indices == 3).any() == lowest_too  # nothing to learn: the lowest of all
    assert table.probabilities().min() >= 0
    assert table.probabilities().sum() == pytest.approx(1)
    assert draw.probabilities.min() > 0


# --- RHO -------------------------------------------------------------------------------------------------------------

LOSS = np.array([0.5, 2.0, 1.0, 3.0, 0.1, 1.5])
HOLDOUT = np.array([0.4, 2.5, 0.25, 0.5, 0.2, 1.0])


def test_rho_follows_the_shifted_difference():
    table = ImportanceTable(
        6, sampler=SamplerConfig(name="RHO", strategy="shifted", holdout=True, smoothing=1.0), seed=0
    )
    table.set_offset(HOLDOUT)
    table.update(np.arange(6), LOSS)
    difference = LOSS - HOLDOUT
    scaled = (difference - difference.min()) / (difference.max() - difference.min())  # eq. 4.6
    smoothed = scaled + scaled.sum() / 36
    expected = smoothed / smoothed.sum()
    np.testing.assert_allclose(table.probabilities(), expected, rtol=1e-6)
    assert expected[1] > 0  # the smallest stays drawable through smoothing
    draws_follow(table, table.probabilities())
    assert table.effective_sample_size() == pytest.approx(scaled.sum() ** 2 / (6 * (scaled**2).sum()), rel=1e-6)


def test_rho_of_many_examples_with_some_not_eligible_and_changing_extremes():
    n, rng = 3000, np.random.default_rng(0)
    eligible = np.flatnonzero(rng.random(n) < 0.85)
    holdout = rng.exponential(size=n).astype(np.float32)
    table = ImportanceTable(n, sampler=SAMPLERS["LIS-RHO"], seed=0, eligible=eligible)
    table.set_offset(holdout)
    loss = np.zeros(n)
    for _ in range(40):
        indices = rng.choice(eligible, 500)
        loss[indices] = rng.exponential(size=500) * 10.0 ** rng.integers(-3, 2)
        table.update(indices, loss[indices])
    scored = table.last_step >= 0
    difference = loss - holdout
    shifted = np.where(scored, difference - difference[scored].min(), 0)
    m = len(eligible)
    p = (shifted / shifted.sum() + 1 / m**2 * (table.last_step > -2)) / (1 + 1 / m)
    np.testing.assert_allclose(table.probabilities(), p, rtol=2e-5, atol=1e-12)
    assert table.probabilities().sum() == pytest.approx(1, abs=1e-9)


def test_rho_of_equal_differences_is_uniform():
    table = ImportanceTable(5, sampler=SAMPLERS["LIS-RHO"], seed=0)
    table.update(np.arange(5), np.full(5, 2.0))
    np.testing.assert_allclose(table.probabilities(), 0.2, rtol=1e-12)


@pytest.mark.parametrize("strategy", ["shifted", "linear_rank"])
def test_rho_takes_a_score_of_0_for_the_lowest(strategy):
    """An example that stopped decoding. 0 − 4 would be the new minimum, and all others shift up to nearly uniform; 0
    itself is the highest of all once the model is better than the hold-out model."""
    table = ImportanceTable(
        4, sampler=SamplerConfig(name="RHO", strategy=strategy, holdout=True, smoothing=0.0), seed=0
    )
    table.set_offset([1.0, 1.0, 1.0, 4.0])
    table.update([0, 1, 2, 3], [0.5, 1.0, 2.0, 5.0])  # −0.5, 0, 1, 1
    table.update([3], [0.0])
    np.testing.assert_allclose(table.scores, [-0.5, 0.0, 1.0, 0.0], atol=1e-20)
    shifted = np.array([0.0, 0.5, 1.5, 0.0]) / 2  # less the minimum of −0.5, 0 and 1
    ranked = np.array([2, 3, 4, 1]) / 10
    np.testing.assert_allclose(table.probabilities(), shifted if strategy == "shifted" else ranked)
    table.update([0, 1, 2], [0.25, 0.5, 0.75])  # −0.75, −0.5, −0.25
    shifted = np.array([0.0, 0.25, 0.5, 0.0]) / 0.75
    np.testing.assert_allclose(table.probabilities(), shifted if strategy == "shifted" else ranked)
    table.update([3], [4.5])  # it decodes again: 0.5, the highest
    assert table.probabilities().argmax() == 3


def test_offsets_come_off_before_the_history_and_off_the_mean_importance():
    """Scores 3 and 5, offset 1: 2 and 4, of which the mean is 3, and so is half of each."""
    sampler = replace(SAMPLERS["LIS-RHO"], history="momentum", momentum=0.5)
    table = ImportanceTable(2, sampler=sampler, seed=0)
    table.set_offset([1.0, 7.0])
    table.update([0], [3.0])
    table.update([0], [5.0])
    assert table.scores[0] == 3.0
    assert table.mean_importance.tolist() == [3.0, 0.0]


def test_offsets_are_refused_where_they_do_not_belong():
    with pytest.raises(InputError, match="holdout is False"):
        ImportanceTable(3, seed=0).set_offset([1, 2, 3])
    table = ImportanceTable(3, sampler=SAMPLERS["LIS-RHO"], seed=0)
    for wrong, what in (([1, 2], r"shape \(2,\)"), ([1, 2, np.nan], "nan for example 2")):
        with pytest.raises(InputError, match=f"3 finite numbers, got {what}"):
            table.set_offset(wrong)
    table.update([0], [1.0])
    with pytest.raises(InputError, match="before the first update"):
        table.set_offset([1, 2, 3])


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_exponential_rank():
    scores = np.array([3.0, 0.1, 50.0, 7.0, 1.0])
    weights = 100.0 ** (-np.array([2, 4, 0, 1, 3]) / 5)  # rank of each, 0 for the highest
    table = filled(scores, strategy="rank", pressure=100.0, smoothing=0.0)
    np.testing.assert_allclose(table.probabilities(), weights / weights.sum(), rtol=1e-12)
    draws_follow(table, weights / weights.sum())


def test_tied_ranks_share_and_ranks_follow_updates():
    table = filled(np.array([1.0, 1.0, 5.0, 2.0]), strategy="linear_rank", smoothing=0.0)
    np.testing.assert_allclose(table.probabilities(), np.array([1.5, 1.5, 4, 3]) / 10, rtol=1e-12)
    table.update([0, 2, 0], [9.0, 1.5, 3.0])
    np.testing.assert_allclose(table.probabilities(), np.array([4, 1, 2, 3]) / 10, rtol=1e-12)
    draws_follow(table, np.array([4, 1, 2, 3]) / 10)


def test_rho_rank_orders_differences_of_either_sign():
    table = ImportanceTable(6, seed=0, sampler=SAMPLERS["LIS-RHO-rank"], smoothing=0.0)
    table.set_offset(HOLDOUT)
    table.update(np.arange(6), LOSS)
    ranks = stats.rankdata(LOSS - HOLDOUT)
    np.testing.assert_allclose(table.probabilities(), ranks / ranks.sum(), rtol=1e-12)


def test_self_paced_lets_the_hardest_in_last():
    """Three of ten at first, all of them at half of 100 draws, so after ten draws 3 + 7·10/50 = 4.4."""
    scores = np.arange(1.0, 11.0)
    table = filled(scores, strategy="self_paced", share=0.3, horizon=0.5, run_length=100, smoothing=0.0)
    np.testing.assert_allclose(table.probabilities(), [1 / 3] * 3 + [0] * 7, rtol=1e-12)
    assert table.draw(10).indices.max() <= 2
    np.testing.assert_allclose(table.probabilities(), np.array([1, 1, 1, 1, 0.4, 0, 0, 0, 0, 0]) / 4.4, rtol=1e-12)
    assert table.draw(10).indices.max() <= 4
    table.draw(29)
    assert table.probabilities()[9] == pytest.approx(0.86 / 9.86)  # 3 + 7·49/50
    table.draw(1)
    np.testing.assert_allclose(table.probabilities(), 0.1, rtol=1e-12)


def test_the_highest_scores_are_left_out_once_the_warm_up_is_over():
    """A fifth of ten, from 30 of 100 draws on; of two that are left out, one comes back where another scores higher."""
    settings = {"strategy": "exclude", "share": 0.2, "horizon": 0.3, "run_length": 100, "smoothing": 0.0}
    table = filled(np.arange(1.0, 11.0), **settings)
    assert set(table.draw(29).indices.tolist()) > {8, 9}
    np.testing.assert_allclose(table.probabilities(), 0.1, rtol=1e-12)
    table.draw(1)
    np.testing.assert_allclose(table.probabilities(), [1 / 8] * 8 + [0, 0], rtol=1e-12)
    assert table.draw(60).indices.max() == 7
    table.update([0], [9.5])
    np.testing.assert_allclose(table.probabilities(), [0] + [1 / 8] * 8 + [0], rtol=1e-12)
    assert SAMPLERS["AUM"].strategy == "exclude"


def test_a_run_of_twice_the_length_is_self_paced_twice_as_slowly():
    short, long = (
        filled(np.arange(1.0, 11.0), strategy="self_paced", share=0.5, horizon=0.5, run_length=length, smoothing=0.0)
        for length in (40, 80)
    )
    short.draw(10)
    long.draw(20)
    np.testing.assert_allclose(short.probabilities(), long.probabilities(), rtol=1e-12)


# --- decay -----------------------------------------------------------------------------------------------------------


def test_old_scores_fade_into_the_mean():
    n, half_life = 40, 3.0
    table = ImportanceTable(n, seed=0, strategy="decayed", half_life=half_life, smoothing=0.0)
    rng, score, step = np.random.default_rng(0), np.zeros(n), np.zeros(n)
    table.update(np.arange(n), score := rng.exponential(size=n))
    for version in range(1, 400):  # past the origin's move at 192 updates
        indices = rng.choice(n, 4, replace=False) if version < 390 else np.array([0, 1])
        score[indices], step[indices] = rng.exponential(size=len(indices)), version
        table.update(indices, score[indices])
        fresh = 2.0 ** -((table.version - step) / half_life)
        prior = (fresh * score).sum() / fresh.sum()
        expected = fresh * score + (1 - fresh) * prior
        np.testing.assert_allclose(table.probabilities(), expected / expected.sum(), rtol=1e-9)
    draws_follow(table, table.probabilities())


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_pruning_drops_low_scores_and_rescales_the_rest():
    n, share, rng = 1000, 0.4, np.random.default_rng(0)
    scores = rng.exponential(size=n)
    low = scores < scores.mean()
    table = filled(scores, strategy="prune", share=share)
    drawn, weight = np.zeros(n), np.zeros(n)
    for _ in range(400):
        draw = table.draw(50)
        drawn += np.bincount(draw.indices, minlength=n)
        weight += np.bincount(draw.indices, draw.weights, minlength=n)
        np.testing.assert_allclose(draw.weights, np.where(low[draw.indices], 1 / (1 - share), 1.0))
    epochs = drawn[~low].mean()
    assert drawn[~low].max() - drawn[~low].min() <= 1
    assert drawn[low].mean() == pytest.approx((1 - share) * epochs, rel=0.02)
    assert weight[low].mean() == pytest.approx(epochs, rel=0.02)  # unbiased: as if nothing were pruned


def test_pruning_stops_at_the_horizon_though_an_epoch_is_under_way():
    """InfoBatch prunes through 0.875 of 400 draws, so up to draw 34 of 40, and through none after: 0 is half of all."""
    low = np.arange(100) < 50
    table = ImportanceTable(100, sampler=SAMPLERS["InfoBatch"], seed=0, run_length=400)
    table.update(np.arange(100), 1.0 - low)
    draws = [table.draw(10) for _ in range(40)]
    for t, draw in enumerate(draws):
        expected = np.where(low[draw.indices] & (t < 35), 2.0, 1.0)
        assert np.array_equal(draw.weights, expected), t
        np.testing.assert_allclose(draw.probabilities, 1 / expected / (75 if t < 35 else 100))
    np.testing.assert_allclose(table.probabilities(), 0.01)


def test_without_a_horizon_pruning_goes_on_to_the_end():
    table = filled(np.array([0.0, 1.0] * 20), strategy="prune", share=0.5, run_length=10)
    assert 2.0 in np.concatenate([table.draw(20).weights for _ in range(20)][-2:])


def test_replacement_doubles_the_highest_for_an_epoch():
    scores = np.random.default_rng(0).permutation(20).astype(float)
    table = filled(scores, strategy="replace", share=0.1)
    order = np.argsort(scores)
    expected = np.ones(20)
    expected[order[:2]], expected[order[-2:]] = 0, 2
    for epoch in range(3):
        counts = np.bincount(np.concatenate([table.draw(5).indices for _ in range(4)]), minlength=20)
        assert np.array_equal(counts, expected), epoch
    np.testing.assert_allclose(table.probabilities(), expected / 20)


# --- histories -------------------------------------------------------------------------------------------------------


def replay(history: str, scores: list[float], **settings) -> float:
    table = ImportanceTable(2, seed=0, history=history, **settings)
    for score in scores:
        table.update([1], [score])
    return float(table.scores[1])


def test_histories_by_hand():
    seen = [0.9, 0.2, 0.6, 0.7]
    assert replay("latest", seen) == 0.7
    assert replay("mean", seen) == pytest.approx(np.mean(seen), rel=1e-6)
    assert replay("momentum", seen[:3], momentum=0.5) == pytest.approx(0.25 * 0.9 + 0.25 * 0.2 + 0.5 * 0.6)
    assert replay("closeness", seen) == pytest.approx(0.6 * 0.4, rel=1e-6)
    variance = np.var(seen, ddof=1)
    assert replay("variance", seen) == pytest.approx(np.sqrt(variance + variance**2 / 3), rel=1e-5)
    assert replay("variance", seen[:1]) == 0


@pytest.mark.parametrize(
    ("errors", "events"),
    [
        ([0.1, 0.1, 0.1], 0),  # never forgotten
        ([0.9, 0.1, 0.9, 0.9, 0.1, 0.9], 3),  # not yet learned once, forgotten twice; staying wrong is no event
        ([0.9, 0.9, 0.9], 3),  # never learned: one at each visit
    ],
)
def test_forgetting_events(errors, events):
    assert replay("forgetting", errors) == 1 + events
