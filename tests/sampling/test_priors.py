"""Priors: what the labels say, the laws of a table that has one, and the floor that moves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isod.errors import InputError
from isod.sampling import SAMPLERS, DrawSchedule, ImportanceTable, Labels, SamplerConfig
from isod.sampling.catalogue import PRIORS, find_prior, prior_observes
from tests.sampling.labelled import labelled_table, made_labels

WITH_PRIOR = ("proportional", "prior", "rejection", "uniform_rejection")
LABELLED = [name for name, sampler in SAMPLERS.items() if sampler.prior]


def prior_of(name, labels, **changes):
    found = find_prior(name)(labels, SamplerConfig(name="mine", strategy="prior", prior=name, **changes))
    return found.prior() if prior_observes(name) else found


# --- what the labels say ---------------------------------------------------------------------------------------------

# Ten images as in LVIS: class 1 in eight of them, class 2 in two, class 3 in one, with 16, 3 and 1 objects
LVIS = Labels.from_lists([[1, 1]] * 6 + [[1, 1, 2, 2], [1, 1, 3], [2], []], 4)


def test_repeat_factors_by_hand():
    """f = 0.8, 0.2, 0.1: √(1/f) = 1.118, 2.236, 3.162; the image's rarest class decides; a quarter without objects."""
    expected = [1.1180340] * 6 + [2.2360680, 3.1622777, 2.2360680, 0.25]
    np.testing.assert_allclose(prior_of("repeat_factor", LVIS), expected, rtol=1e-7)


def test_repeat_factors_of_the_paper():
    """Gupta et al. 2019: r_c = max(1, √(t/f_c)), r_i = max over c of r_c. With t = 0.4: 1, √2, 2."""
    got = prior_of("repeat_factor", LVIS, prior_threshold=0.4, empty_weight=1.0)
    np.testing.assert_allclose(got, [1.0] * 6 + [math.sqrt(2), 2.0, math.sqrt(2), 1.0])
    capped = prior_of("repeat_factor", LVIS, prior_cap=2.5)
    np.testing.assert_allclose(capped[[0, 6, 7]], [1.1180340, 2.2360680, 2.5], rtol=1e-7)
    np.testing.assert_allclose(prior_of("repeat_factor", LVIS, prior_exponent=1.0)[[0, 6, 7]], [1.25, 5.0, 10.0])


def test_instance_repeat_factors_by_hand():
    """Yaman et al. 2023: √(1/√(f·g)), with g = 14/18, 3/18, 1/18 of the objects."""
    assert LVIS.object_shares.tolist() == pytest.approx([0, 16 / 20, 3 / 20, 1 / 20, 0])
    expected = [(0.8 * 16 / 20) ** -0.25, (0.2 * 3 / 20) ** -0.25, (0.1 / 20) ** -0.25, 0.25]
    np.testing.assert_allclose(prior_of("instance_repeat_factor", LVIS)[[0, 6, 7, 9]], expected)


def test_empties_and_segments_by_hand():
    assert prior_of("empties", LVIS, empty_weight=0.5).tolist() == [1.0] * 9 + [0.5]
    names = ["a"] * 4 + ["b"] * 5 + ["c"]
    labels = Labels.from_lists([[1]] * 10, 1, segments=names, eligible=[0, 1, 2, 3, 4, 9])  # b has one eligible image
    np.testing.assert_allclose(prior_of("segments", labels), [0.5] * 4 + [1.0] * 6)
    with pytest.raises(InputError, match="'segments' needs the sequence of each example"):
        prior_of("segments", LVIS)


@pytest.mark.parametrize("name", PRIORS)
def test_unusual_labels(name):
    """An image without objects, one with don't-care alone, a class that no image has, one class, one example, no object
    at all, a lost class outside of the eligible examples: finite, and above 0 where a table needs it."""
    for classes, number in [([[], [0], [1]], 5), ([[1]], 1), ([[]], 1), ([[0], []], 3), ([[2, 2]] * 3 + [[1]], 2)]:
        labels = Labels.from_lists(classes, number, segments=["x"] * len(classes), eligible=range(len(classes[:3])))
        table = ImportanceTable(
            len(classes), seed=0, eligible=range(len(classes[:3])), strategy="prior", start="prior", prior=name,
            run_length=100,
        )  # fmt: skip
        table.set_labels(labels)
        assert table.probabilities().sum() == pytest.approx(1)
        for _ in range(5):
            draw = table.draw(4)
            table.update(draw.indices, np.zeros(4))
        assert np.isfinite(draw.probabilities).all()
    empty, unknown, known = prior_of(name, Labels.from_lists([[], [0], [1]], 5, segments=["x"] * 3))
    assert empty == unknown <= known


def test_bad_labels_are_a_sentence():
    for arguments, message in [
        (dict(classes=[], num_classes=2), "at least one example, got none"),
        (dict(classes=[[3]], num_classes=2), r"classes must be in 0 … 2, got 3 … 3"),
        (dict(classes=[[1]], num_classes=2, segments=["a", "b"]), "one segment per example, 1, got 2"),
        (dict(classes=[[1], [2]], num_classes=2, sizes=[[0, 1], []]), "one size per object of each example"),
        (dict(classes=[[1]], num_classes=2, sizes=[[3]]), "sizes must be in 0 … 2, got 3"),
        (dict(classes=[[1], [2]], num_classes=2, eligible=[-1, 0]), "eligible must be in 0 … 1, got -1 … 0"),
        (dict(classes=[[1], [2]], num_classes=2, eligible=[2]), "eligible must be in 0 … 1, got 2 … 2"),
    ]:
        with pytest.raises(InputError, match=message):
            Labels.from_lists(**arguments)
    with pytest.raises(InputError, match="sampler 'RFS' draws by the labels, prior 'repeat_factor': give the table"):
        DrawSchedule(ImportanceTable(4, seed=0, sampler=SAMPLERS["RFS"]), batch_size=2, lag=1)
    with pytest.raises(InputError, match="labels are of 10 examples and the table of 4"):
        ImportanceTable(4, seed=0, sampler=SAMPLERS["RFS"]).set_labels(LVIS)
    with pytest.raises(InputError, match="labels count other examples than the table draws: give both the same elig"):
        ImportanceTable(10, seed=0, sampler=SAMPLERS["RFS"], eligible=[0, 1, 6]).set_labels(LVIS)
    with pytest.raises(InputError, match="sampler 'LIS' reads no labels"):
        ImportanceTable(10, seed=0, sampler=SAMPLERS["LIS"]).set_labels(LVIS)
    with pytest.raises(InputError, match=r"sampler prior must be one of repeat_factor, .*did you mean 'empties'"):
        SamplerConfig(name="mine", prior="empty")
    with pytest.raises(InputError, match=r"need a strategy of proportional, prior, rejection, .*got 'rank'"):
        SamplerConfig(name="mine", strategy="rank", start="prior")
    with pytest.raises(InputError, match=r"strategy 'rank' knows no prior"):
        ImportanceTable(4, seed=0, strategy="rank").set_prior(np.ones(4))


# --- laws ------------------------------------------------------------------------------------------------------------


def table_of(scores, prior=None, **changes):
    """A table whose examples have these scores, NaN for none."""
    table = ImportanceTable(len(scores), seed=changes.pop("seed", 3), **changes)
    if prior is not None:
        table.set_prior(prior)
    scored = np.flatnonzero(~np.isnan(scores))
    if len(scored):
        table.update(scored, np.asarray(scores)[scored])
    return table


def stream(table, steps=12, n=8):
    """What is drawn, with updates of what was drawn."""
    out = []
    for step in range(steps):
        draw = table.draw(n)
        out.append((draw.indices.tolist(), draw.probabilities.tolist(), draw.weights.tolist()))
        table.update(draw.indices, np.abs(np.sin(draw.indices + step)))
    return out


numbers = st.floats(0, 1e6).map(lambda x: 0.0 if x < 1e-6 else x)
some = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.lists(values, min_size=n, max_size=n) for values in (numbers, st.floats(1e-3, 1e3))))
)


@pytest.mark.parametrize("strategy", WITH_PRIOR)
@pytest.mark.parametrize("start", ["scores", "prior"])
@given(pair=some, floor=st.floats(0, 1), smoothing=st.floats(0, 10))
@settings(max_examples=15, deadline=None)
def test_probabilities_are_prior_times_score_and_sum_to_1(strategy, start, pair, floor, smoothing):
    scores, prior = map(np.asarray, pair)
    table = table_of(scores, prior, strategy=strategy, start=start, floor=floor, smoothing=smoothing)
    p = table.probabilities()
    assert p.sum() == pytest.approx(1)
    product = prior * (1 if strategy == "prior" else scores)
    share = floor + (1 - floor) * (smoothing / len(scores)) / (1 + smoothing / len(scores))
    even = np.full(len(scores), 1 / len(scores))
    expected = share * even + (1 - share) * product / product.sum() if product.sum() > 0 else even
    np.testing.assert_allclose(p, expected, rtol=1e-9)


@pytest.mark.parametrize("history", ["latest", "momentum", "variance"])
@pytest.mark.parametrize("strategy", ["proportional", "rejection", "uniform_rejection"])
def test_a_prior_of_ones_changes_nothing_bit_for_bit(strategy, history):
    scores = np.random.default_rng(0).exponential(size=3000)
    settings = dict(strategy=strategy, history=history, momentum=0.5 if history == "momentum" else 0.0, floor=0.1)
    plain, ones = table_of(scores, **settings), table_of(scores, np.full(3000, 7.0), **settings)
    assert stream(ones) == stream(plain)
    assert np.array_equal(ones.probabilities(), plain.probabilities())


@given(pair=some, scale=st.floats(1e-30, 1e30), power=st.integers(-200, 200))
@settings(max_examples=25, deadline=None)
def test_the_scale_of_a_prior_changes_nothing(pair, scale, power):
    scores, prior = map(np.asarray, pair)
    one = table_of(scores, prior)
    np.testing.assert_allclose(table_of(scores, prior * scale).probabilities(), one.probabilities(), rtol=1e-12)
    assert stream(table_of(scores, prior * 2.0**power)) == stream(table_of(scores, prior))


def test_draws_follow_prior_times_score():
    """Chi-square; of 2000 examples in three levels of the tree, a tenth of which have no score and count as 1."""
    rng = np.random.default_rng(1)
    scores, prior = rng.exponential(size=2000), rng.uniform(0, 4, 2000)
    scores[::10], prior[5] = np.nan, 0.0
    table = table_of(scores, prior, smoothing=0.0, start="prior")
    product = prior * np.where(np.isnan(scores), 1.0, scores)
    counts = np.bincount(np.concatenate([table.draw(500).indices for _ in range(200)]), minlength=2000)
    assert counts[5] == 0
    kept = product > 0
    assert stats.chisquare(counts[kept], product[kept] / product.sum() * counts.sum()).pvalue > 1e-3


def test_a_sampler_without_a_prior_may_start_at_once():
    """An example without a score counts as score 1, and one with 3 is three times as likely."""
    table = ImportanceTable(4, seed=0, start="prior", smoothing=0.0)
    assert table.primed
    table.update([2], [3.0])
    assert table.probabilities().tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 2, 1 / 6])


@pytest.mark.parametrize("name", ["RFS", "IRFS"])
def test_with_a_floor_of_1_it_is_the_uniform_sampler(name):
    """Draw for draw, once that one draws by its strategy."""
    uniform = ImportanceTable(40, seed=5, sampler=SAMPLERS["uniform"])
    other = labelled_table(40, seed=5, sampler=SAMPLERS[name], floor=1.0)
    assert stream(uniform, 20)[5:] == stream(other, 20)[5:]


def test_a_change_of_the_prior_is_seen_by_the_next_draw_and_by_no_score():
    table, rng = table_of(np.arange(1.0, 51.0), np.ones(50)), np.random.default_rng(0)
    for _ in range(3):
        table.draw(8)
        prior = rng.uniform(0.1, 5, 50)
        table.set_prior(prior)
        fresh = table_of(np.arange(1.0, 51.0), prior)
        fresh.draws = table.draws
        assert np.array_equal(table.probabilities(), fresh.probabilities())
        np.testing.assert_array_equal(table.scores, np.arange(1.0, 51.0))
        assert table.draw(8).indices.tolist() == fresh.draw(8).indices.tolist()


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (np.ones(3), r"4 finite numbers ≥ 0, got shape \(3,\)"),
        ([1, 2, np.nan, 1], "got nan for example 2"),
        ([1, 2, 1, -1], "got -1.0 for example 3"),
        ([0, 0, 0, 5], "above 0 for an example that may be drawn"),
    ],
)
def test_a_bad_prior_is_rejected_and_changes_nothing(prior, message):
    table = ImportanceTable(4, seed=0, eligible=[0, 1, 2])
    table.set_prior([1, 2, 3, 4])
    table.update([0, 1, 2], [1.0, 1.0, 1.0])
    before = table.probabilities()
    with pytest.raises(InputError, match=message):
        table.set_prior(prior)
    assert np.array_equal(table.probabilities(), before)


# --- state -----------------------------------------------------------------------------------------------------------


def test_a_prior_is_in_the_state():
    table = labelled_table(30, seed=0, sampler=SAMPLERS["RFS"])
    stream(table, 4)
    resumed = labelled_table(30, seed=0, sampler=SAMPLERS["RFS"])
    resumed.load_state_dict(table.state_dict())
    assert stream(resumed, 4) == stream(table, 4)
    others = ImportanceTable(30, seed=0, sampler=SAMPLERS["RFS"])
    with pytest.raises(InputError, match="the saved table has sampler"):  # made without labels
        others.load_state_dict(table.state_dict())
    others.set_labels(made_labels(30, seed=1))
    with pytest.raises(InputError, match="the saved table has sampler"):
        others.load_state_dict(table.state_dict())
    given, none = ImportanceTable(30, seed=0), ImportanceTable(30, seed=0)
    given.set_prior(np.arange(1.0, 31.0))
    with pytest.raises(InputError, match="the saved table has a prior and this one has none: resume with the same"):
        none.load_state_dict(given.state_dict())
    with pytest.raises(InputError, match="the saved table has no prior and this one has one"):
        given.load_state_dict(none.state_dict())


# --- the floor -------------------------------------------------------------------------------------------------------


def test_the_floor_moves_from_one_share_of_the_run_to_another():
    """λ = 0.2 until 0.6 of 1000 draws, then in a straight line to 1 at 0.8: 0.2, 0.2, 0.6, 1, 1."""
    table = table_of([0.0, 4.0], smoothing=0.0, floor=0.2, floor_from=0.6, floor_until=0.8, run_length=1000)
    highest = {}
    for drawn in range(0, 1000, 100):
        highest[drawn] = float(table.probabilities()[1])
        assert table.draw(100).probabilities.max() == pytest.approx(highest[drawn])
    assert [1 - 2 * (p - 0.5) for p in (highest[0], highest[600], highest[700], highest[800], highest[900])] == (
        pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    )


def test_a_floor_may_fall_and_may_jump():
    config = SamplerConfig(name="mine", floor=1.0, floor_end=0.0, floor_from=0.5, floor_until=0.5)
    assert [config.floor_at(x) for x in (0.0, 0.5, 0.51, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert config.timed
    with pytest.raises(InputError, match=r"changes after 0.5 of the run's draws: give the table the run_length"):
        ImportanceTable(4, seed=0, sampler=config)
    with pytest.raises(InputError, match="floor_from and floor_until must be shares"):
        SamplerConfig(name="mine", floor_from=0.5, floor_until=0.4)


@pytest.mark.parametrize("strategy", ["rank", "decayed", "rejection"])
def test_every_strategy_with_a_floor_moves_it(strategy):
    table = table_of(np.arange(1.0, 9.0), strategy=strategy, floor_from=0.1, floor_until=0.2, run_length=100)
    assert np.ptp(table.probabilities()) > 0.01
    table.draw(50)
    assert np.ptp(table.probabilities()) == pytest.approx(0, abs=1e-12)
