"""The importance table: distributions, laws, refusals, state, memory."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isod.config.record import flatten
from isod.config.settings import RunConfig
from isod.errors import InputError
from isod.sampling import ImportanceTable
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.sampling.schedule import DrawSchedule
from tests.sampling.labelled import labelled_table

SCORES = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 0.5, 0.0, 10.0, 7.0, 0.01])


def filled(scores, **settings) -> ImportanceTable:
    table = ImportanceTable(len(scores), seed=settings.pop("seed", 0), **settings)
    table.update(np.arange(len(scores)), scores)
    return table


def draws_follow(table: ImportanceTable, expected: np.ndarray, draws: int = 300, n: int = 200) -> None:
    """Chi-square of the draws against ``expected``, whose zeros must never be drawn."""
    counts = np.zeros(table.num_examples)
    for _ in range(draws):
        draw = table.draw(n)
        np.testing.assert_allclose(draw.probabilities, expected[draw.indices], rtol=1e-6)
        counts += np.bincount(draw.indices, minlength=table.num_examples)
    assert (counts[expected == 0] == 0).all()
    held = expected > 0
    assert stats.chisquare(counts[held], expected[held] * counts.sum()).pvalue > 1e-3


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
def test_draws_follow_smoothed_and_floored_scores(smoothing, floor):
    n = len(SCORES)
    smoothed = SCORES + smoothing * SCORES.sum() / n**2  # eq. 4.3
    expected = floor / n + (1 - floor) * smoothed / smoothed.sum()
    table = filled(SCORES, smoothing=smoothing, floor=floor)
    np.testing.assert_allclose(table.probabilities(), expected, rtol=1e-12)
    draws_follow(table, expected)


def test_draws_follow_scores_of_a_table_of_several_levels():
    scores = np.random.default_rng(0).exponential(size=5000)
    draws_follow(filled(scores, smoothing=0.0), scores / scores.sum())


def test_only_eligible_examples_are_drawn():
    eligible = np.array([9, 1, 2, 4, 7])
    table = ImportanceTable(10, seed=0, eligible=eligible, floor=0.3, smoothing=0.0)
    table.update(eligible, SCORES[eligible])
    expected = np.zeros(10)
    expected[eligible] = 0.3 / 5 + 0.7 * SCORES[eligible] / SCORES[eligible].sum()
    np.testing.assert_allclose(table.probabilities(), expected, rtol=1e-12)
    draws_follow(table, expected)


def test_all_zero_scores_are_drawn_uniformly():
    table = filled(np.zeros(7), smoothing=0.0)
    assert table.effective_sample_size() == 1.0
    draws_follow(table, np.full(7, 1 / 7))


def test_one_example():
    for name, sampler in SAMPLERS.items():
        table = labelled_table(1, sampler=sampler, seed=0, run_length=4)
        for _ in range(4):
            draw = table.draw(1)
            assert draw.indices.tolist() == [0], name
            assert draw.probabilities.tolist() == pytest.approx([1.0]), name
            table.update(draw.indices, [0.5])


@pytest.mark.parametrize("lag", [0, 2, 64])
def test_every_sampler_draws_as_the_baseline_does_until_every_example_has_a_score(lag):
    """Ten examples in batches of 4: all have scores after step 2, which draw 3 + lag is the first to see."""
    draws = {}
    for name, sampler in SAMPLERS.items():
        if sampler.start == "prior":
            continue
        table = labelled_table(10, sampler=sampler, seed=3, run_length=400)
        schedule = DrawSchedule(table, batch_size=4, lag=lag)
        for step in range(3 + lag):
            draws[name, step] = schedule.draw(step).indices.tolist()
            assert table.primed == (step > 2), (name, step)
            schedule.update(step, schedule.draw(step).indices, np.ones(4))
        assert table.primed
    for (name, step), indices in draws.items():
        assert indices == draws["baseline", step], (name, step)
    in_order = [index for step in range(5) for index in draws.get(("baseline", step), [])]
    assert all(sorted(in_order[at : at + 10]) == list(range(10)) for at in range(0, len(in_order) - 9, 10))


def test_pruning_goes_on_in_the_epoch_that_the_wait_for_scores_has_begun():
    """Eight examples in batches of 4, lag 1: draw 2 is the first half of epoch 1, without a score to prune by; with
    equal scores nothing is pruned, and draw 3, by the strategy, takes the other half."""
    schedule = DrawSchedule(
        ImportanceTable(8, sampler=SAMPLERS["InfoBatch"], seed=0, run_length=400), batch_size=4, lag=1
    )
    drawn = []
    for step in range(4):
        indices = schedule.draw(step).indices
        drawn += indices.tolist()
        schedule.update(step, indices, np.ones(4))
    assert sorted(drawn[:8]) == sorted(drawn[8:]) == list(range(8))


def test_baseline_draws_every_example_once_per_epoch_across_batches():
    table = ImportanceTable(10, sampler=SAMPLERS["baseline"], seed=0)
    stream = np.concatenate([table.draw(4).indices for _ in range(10)]).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in stream.tolist())
    assert len({tuple(epoch) for epoch in stream.tolist()}) == 4
    assert (table.draw_count == 4).all()


def test_effective_sample_size():
    assert filled([1.0, 1, 1, 1]).effective_sample_size() == pytest.approx(1.0)
    assert filled([1.0, 0, 0, 0]).effective_sample_size() == pytest.approx(0.25)
    assert filled([1.0, 2, 3, 4]).effective_sample_size() == pytest.approx(100 / (4 * 30))


def test_weights_estimate_the_mean_over_all_examples():
    losses = np.random.default_rng(1).exponential(size=200)
    table = filled(losses + 0.1, floor=0.2, weight_exponent=1.0)
    estimates = []
    for _ in range(400):
        draw = table.draw(100)
        np.testing.assert_allclose(draw.weights, 1 / (200 * draw.probabilities), rtol=1e-12)
        estimates.append((draw.weights * losses[draw.indices]).mean())
    assert np.mean(estimates) == pytest.approx(losses.mean(), abs=4 * np.std(estimates) / 20)
    half = filled(losses, weight_exponent=0.5).draw(10)
    np.testing.assert_allclose(half.weights, (200 * half.probabilities) ** -0.5, rtol=1e-12)
    assert (filled(losses).draw(10).weights == 1).all()


# --- laws ------------------------------------------------------------------------------------------------------------

some_scores = st.lists(st.floats(0, 1e6).map(lambda x: 0.0 if x < 1e-6 else x), min_size=1, max_size=80)


@given(some_scores, st.floats(0, 2), st.floats(0, 1))
@settings(max_examples=60)
def test_probabilities_sum_to_one_and_follow_the_order(scores, smoothing, floor):
    p = filled(scores, smoothing=smoothing, floor=floor).probabilities()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    order = np.argsort(scores, kind="stable")
    assert (np.diff(p[order]) >= -1e-15).all()


@given(some_scores, st.floats(1e-3, 1e3))
@settings(max_examples=60)
def test_scaling_the_scores_changes_nothing(scores, scale):
    table, scaled = filled(scores), filled(np.asarray(scores) * scale)
    np.testing.assert_allclose(table.probabilities(), scaled.probabilities(), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("name", SAMPLERS)
@given(data=st.data())
@settings(max_examples=8)
def test_update_then_draw_equals_rebuild_then_draw(name, data):
    n = data.draw(st.integers(1, 300))
    table, rng = (
        labelled_table(n, sampler=SAMPLERS[name], seed=data.draw(st.integers(0, 2**64 - 1)), run_length=500),
        np.random.default_rng(0),
    )
    for _ in range(data.draw(st.integers(1, 12))):
        draw = table.draw(min(n, 16))
        table.update(draw.indices, rng.exponential(size=len(draw.indices)))
    rebuilt = labelled_table(n, sampler=SAMPLERS[name], seed=int(table.examples.seed), run_length=500)
    buffer = io.BytesIO()
    torch.save(table.state_dict(), buffer)
    buffer.seek(0)
    rebuilt.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(3):
        one, other = table.draw(min(n, 16)), rebuilt.draw(min(n, 16))
        assert one.indices.tolist() == other.indices.tolist()
        assert one.probabilities.tolist() == other.probabilities.tolist()
        assert one.weights.tolist() == other.weights.tolist()
        assert (one.step, one.version) == (other.step, other.version)
        scores = rng.exponential(size=len(one.indices))
        table.update(one.indices, scores)
        rebuilt.update(one.indices, scores)
    for statistic in ("scores", "draw_count", "last_step", "mean_importance"):
        assert np.array_equal(getattr(table, statistic), getattr(rebuilt, statistic))
    assert rebuilt.effective_sample_size() == table.effective_sample_size()


def test_same_seed_same_indices_and_another_seed_others():
    def indices(seed):
        table = ImportanceTable(50, seed=seed)
        out = []
        for _ in range(20):
            draw = table.draw(8)
            table.update(draw.indices, draw.indices + 1.0)
            out += draw.indices.tolist()
        return out

    assert indices(5) == indices(5)
    assert indices(5) != indices(6)


def test_no_drift_after_many_updates():
    rng = np.random.default_rng(0)
    table = filled(rng.exponential(size=3000), smoothing=0.0)
    for _ in range(4000):
        table.update(rng.integers(0, 3000, 2500), 10.0 ** rng.uniform(-8, 8, 2500))  # 10⁷ updates of 16 magnitudes
    exact = table.scores / np.sum(table.scores.astype(np.longdouble))
    np.testing.assert_allclose(table.probabilities(), exact.astype(np.float64), rtol=1e-12)


# --- updates ---------------------------------------------------------------------------------------------------------


def test_of_duplicates_the_last_wins_and_all_count_in_the_mean():
    table = ImportanceTable(4, seed=0)
    table.update([2, 1, 2], [5.0, 1.0, 3.0])
    assert table.scores.tolist() == [0, 1, 3, 0]
    assert table.mean_importance.tolist() == [0, 1, 4, 0]
    table.update(torch.tensor([1]), torch.tensor([3.0], dtype=torch.bfloat16, requires_grad=True))
    assert table.mean_importance.tolist() == [0, 2, 4, 0]
    assert table.last_step.tolist() == [-1, 1, 0, -1]
    assert table.version == 2


REFUSED = [
    ([0, 1], [1.0, float("nan")], "example 1 at position 1 is nan: scores must be finite"),
    ([0, 1], [float("inf"), 1.0], "must be finite"),
    ([0, 1], [1.0, -1e-9], "must be ≥ 0"),
    ([0, 1], [1.0, 1e16], r"example 1 at position 1 is 1e\+16: scores must be ≤ 1e\+15"),
    ([0, 8], [1.0, 1.0], "index 8 at position 1 is outside 0 … 7"),
    ([-1], [1.0], "outside"),
    ([5], [1.0], "not eligible"),
    ([0, 1], [1.0], "as many scores as indices"),
    ([[0, 1]], [[1.0, 1.0]], "as many scores as indices"),
    (np.zeros(0, int), np.zeros(0), "at least one example"),
    ([0.5], [1.0], "must be integers"),
    ([0], ["1"], "real numbers"),
]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_refused_update_leaves_the_table_unchanged(name):
    table = labelled_table(8, sampler=SAMPLERS[name], seed=0, eligible=[0, 1, 2, 3, 4, 6, 7], run_length=100)
    draw = table.draw(7)
    table.update(draw.indices, np.arange(1.0, 8.0))
    before, p = table.state_dict(), table.probabilities()
    for indices, scores, message in REFUSED:
        with pytest.raises(InputError, match=message):
            table.update(indices, scores)
        after = table.state_dict()
        for key in ("score", "draw_count", "last_step", "score_count", "mean", "extra"):
            assert torch.equal(before[key], after[key])
        assert (before["version"], before["draws"]) == (after["version"], after["draws"])
        assert np.array_equal(p, table.probabilities())


def test_bad_tables_and_draws():
    for arguments, message in [
        (dict(num_examples=0, seed=0), "at least one example"),
        (dict(num_examples=3, seed=-1), "seed"),
        (dict(num_examples=3, seed=0, strategy="best"), "sampler strategy must be one of sequential, .*, got 'best'"),
        (dict(num_examples=3, seed=0, history="all"), "sampler history must be one of latest"),
        (dict(num_examples=3, seed=0, floor=1.5), "floor must be in"),
        (dict(num_examples=3, seed=0, class_weight=0.0, box_weight=0.0), "must not both be 0"),
        (dict(num_examples=3, seed=0, smoothing=float("nan")), "smoothing"),
        (dict(num_examples=3, seed=0, eligible=[]), "eligible"),
        (dict(num_examples=3, seed=0, eligible=[0, 3]), "eligible"),
        (dict(num_examples=3, seed=0, eligible=[1, 1]), "repeat"),
        (dict(num_examples=3, seed=0, horizon=2.0, run_length=9), "horizon must be in"),
        (dict(num_examples=3, seed=0, run_length=0), "run_length must be"),
        (
            dict(num_examples=3, seed=0, horizon=0.5),
            "changes after 0.5 of the run's draws: give the table the run_length",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            ImportanceTable(**arguments)
    with pytest.raises(InputError, match="at least one example"):
        ImportanceTable(3, seed=0).draw(0)
    with pytest.raises(InputError, match="cannot exceed the 3 examples, got 4"):
        ImportanceTable(3, sampler=SAMPLERS["baseline"], seed=0).draw(4)
    assert len(filled([1.0, 2.0, 3.0]).draw(4).indices) == 4  # with replacement


def test_state_of_another_table_is_refused():
    table = ImportanceTable(5, seed=0)
    for other, message in [
        (ImportanceTable(6, seed=0), "num_examples"),
        (ImportanceTable(5, seed=1), "seed"),
        (ImportanceTable(5, seed=0, floor=0.1), "sampler"),
        (ImportanceTable(5, seed=0, eligible=[0, 1]), "eligible"),
    ]:
        with pytest.raises(InputError, match=message):
            table.load_state_dict(other.state_dict())


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("score", [5e-324, 1.5e-323, 1e-310])
def test_scores_that_are_nearly_0_draw_examples_that_there_are(score, prior):
    """Their sums are so small that x · Σ, x < 1, rounds to Σ itself."""
    table = ImportanceTable(100, seed=0, smoothing=0.0)
    if prior:
        table.set_prior(np.ones(100))
    table.update(range(100), [score if i % 16 in (3, 7) else 0.0 for i in range(100)])
    for _ in range(200):
        draw = table.draw(32)
        assert {i % 16 for i in draw.indices.tolist()} <= {3, 7}
        assert max(draw.indices) < 100


@pytest.mark.parametrize("history", ["forgetting", "variance"])
def test_sums_of_scores_in_single_precision_are_in_double(history):
    rng = np.random.default_rng(0)
    table = ImportanceTable(5000, seed=0, history=history)
    for _ in range(3):
        table.update(range(5000), rng.uniform(0, 1, 5000))
    assert table.probabilities().sum() == pytest.approx(1.0, abs=1e-13)


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_at_most_24_bytes_an_example(name):
    """And 16 more for a prior."""
    n = 2_000_000
    table = ImportanceTable(n, sampler=SAMPLERS[name], seed=0, eligible=np.arange(n - 1), run_length=n)
    if table.config.prior is not None:
        table.set_prior(np.ones(n))
    if table.config.holdout:
        table.set_offset(np.ones(n))
    table.draw(128)
    beside = 2.3e6 if "rank" in table.config.strategy or table.config.strategy in ("self_paced", "exclude") else 0
    beside += 16 * n if table.config.prior is not None else 0
    assert table.nbytes - beside <= 24 * n


def test_the_table_starts_without_torch_ray_or_mlflow():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['ray'] = sys.modules['mlflow'] = None\n"
        "from isod.sampling import DrawSchedule, SAMPLERS, ImportanceTable\n"
        "schedule = DrawSchedule(ImportanceTable(20, sampler=SAMPLERS['LIS'], seed=0), batch_size=4, lag=1)\n"
        "for step in range(12): schedule.update(step, schedule.draw(step).indices, [1.0, 2, 3, 4])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_sampler_says_what_it_does_and_where_it_is_from_and_neither_is_part_of_a_run():
    for name, sampler in SAMPLERS.items():
        assert sampler.source, name
        assert sampler.summary.endswith("."), name
        assert len(sampler.summary) < 110, name
    moved = replace(SAMPLERS["LIS"], source="elsewhere", summary="elsewhere")
    assert moved == SAMPLERS["LIS"]
    settings = flatten(RunConfig(sampler=moved))
    assert settings["sampler.strategy"] == "proportional"
    assert "elsewhere" not in settings.values()


def test_a_sampler_is_the_same_through_its_name_or_its_settings():
    by_name = ImportanceTable(9, sampler=SAMPLERS["LIS-RB"], seed=0)
    by_settings = ImportanceTable(9, seed=0, sampler=SamplerConfig(name="mine"), strategy="rejection")
    for _ in range(5):
        one, other = by_name.draw(4), by_settings.draw(4)
        assert one.indices.tolist() == other.indices.tolist()
