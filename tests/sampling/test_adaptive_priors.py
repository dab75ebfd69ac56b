"""Priors that follow the training: what they see, what they make of it, and that a run with one is reproducible."""

import io
import math

import numpy as np
import pytest
import torch

from isod.errors import InputError
from isod.sampling import SAMPLERS, DrawSchedule, ImportanceTable, Labels, SamplerConfig, sample_scores
from isod.sampling.priors import ClassAdaptive, Progress, class_weights
from isod.sampling.scores.observations import observations
from tests.sampling.labelled import made_labels
from tests.sampling.outcomes import of_maps

NAN = math.nan
CAP = SAMPLERS["CAP"]
# Four images: two objects of class 1; one of each class; one don't-care; none. Class 3 is only in validation.
LABELS = Labels.from_lists([[1, 1], [1, 2], [0], []], 3, sizes=[[0, 2], [0, 1], [1], []])


def window(prior, *steps):
    """Each step: drawn examples, weights 1/(M·p), and a row of errors per example: objects, background, alarm."""
    for indices, weights, observed in steps:
        prior.observe(np.array(indices), np.array(weights, float), np.array(observed, float))
    prior.close_window()


# --- class_adaptive --------------------------------------------------------------------------------------------------


def test_before_anything_is_seen_it_is_the_repeat_factor():
    """f = 1/2 and 1/4: √2 and 2; images without an object of known class a quarter."""
    assert ClassAdaptive(LABELS, CAP).prior().tolist() == pytest.approx([math.sqrt(2), 2.0, 0.25, 0.25])


def test_class_errors_by_hand():
    """Class 1: (1·0.2 + 1·0.4 + 2·0.6) / 4 = 0.45; class 2: 0.9, the highest. √(0.45/0.9 / 0.5) = 1, √(1 / 0.25) = 2.
    A don't-care, a padded place and an object without a location tell nothing."""
    prior = ClassAdaptive(LABELS, CAP)
    window(
        prior,
        ([0, 1], [1, 2], [[0.2, 0.4, NAN, 0.1, 0], [0.6, 0.9, NAN, 0.1, 1]]),
        ([2, 1], [1, 5], [[0.7, NAN, NAN, 0.1, 0], [NAN, NAN, NAN, 0.1, 0]]),
    )
    assert prior.mean.values[1:].tolist() == pytest.approx([0.45, 0.9, NAN], nan_ok=True)
    assert prior.prior().tolist()[:2] == pytest.approx([1.0, 2.0])
    # Half of the sums fade: class 2 becomes (2·0.9 / 2 + 3·0) / (2 / 2 + 3) = 0.225, class 1 stays, and is the highest
    window(prior, ([1], [3], [[NAN, 0.0, NAN, 0.1, 0]]))
    assert prior.mean.values[1:3].tolist() == pytest.approx([0.45, 0.225])
    assert prior.prior().tolist()[:2] == pytest.approx([math.sqrt(1 / 0.5), math.sqrt(0.5 / 0.25)])


def test_an_image_that_does_not_decode_tells_nothing():
    """A batch of the image without objects and the one with two, which did not decode and is empty: one column."""
    prior = ClassAdaptive(LABELS, CAP)
    window(prior, ([3, 1], [1, 1], [[NAN, 0.1, 1], [NAN, NAN, NAN]]))
    np.testing.assert_array_equal(prior.mean.values, [1.0, NAN, NAN, NAN])


def test_the_error_of_a_class_is_that_of_the_data_set_whatever_is_drawn():
    """Errors of single images drawn ten times as often as others, weighed with 1/(M·p)."""
    rng = np.random.default_rng(0)
    labels = Labels.from_lists([[1]] * 200, 1)
    errors, p = rng.uniform(size=200), np.where(np.arange(200) < 100, 10.0, 1.0)
    errors[:100] /= 4
    p /= p.sum()
    drawn = rng.choice(200, 20_000, p=p)
    prior = ClassAdaptive(labels, CAP)
    window(prior, (drawn, 1 / (200 * p[drawn]), np.stack([errors[drawn], errors[drawn], np.zeros(20_000)], 1)))
    assert prior.mean.values[1] == pytest.approx(errors.mean(), rel=0.03)
    assert abs(errors[drawn].mean() / errors.mean() - 1) > 0.3  # which the plain mean is far from


def test_images_without_objects_come_back_as_false_alarms_rise():
    """Shares of 0.5, 0.05 (with half of the window before: 0.2), 1: relative to the first 1, 0.4, …; never above an
    image with objects, never below the least."""
    prior = ClassAdaptive(LABELS, CAP)
    seen = {}
    for number, alarms in enumerate([[1, 0], [0, 0], [0, 0], [0, 0], [1, 1], [1, 1]]):
        window(prior, ([3, 2], [1, 1], [[NAN, NAN, 0.1, alarm] for alarm in alarms]))
        seen[number] = prior.prior()[3]
    # sums 1; 0.5; 0.25; 0.125; 2.0625; 3.03 of 2; 3; 3.5; 3.75; 3.875; 3.9375, over 0.5, times a quarter
    expected = [0.25, 0.25 / 3, 0.05, 0.05, 0.25 * 2.0625 / 3.875 * 2, 0.25 * 3.03125 / 3.9375 * 2]
    assert list(seen.values()) == pytest.approx(expected)
    assert prior.prior()[2] == prior.prior()[3]
    loud = ClassAdaptive(LABELS, CAP)
    for alarm in (0, 1, 1):
        window(loud, ([3], [1], [[NAN, NAN, 0.1, alarm]]))
    assert loud.prior()[3] == 1.0


@pytest.mark.parametrize("kind", [ClassAdaptive, Progress])
@pytest.mark.parametrize(
    ("classes", "number"), [([[], [0], [1]], 5), ([[1]], 1), ([[]], 1), ([[0], []], 3), ([[1, 1, 1]], 1)]
)
def test_unusual_labels(kind, classes, number):
    prior = kind(Labels.from_lists(classes, number), CAP)
    for error in (0.5, 0.0, 0.0, 0.0):
        assert np.isfinite(prior.prior()).all()
        n = len(classes)
        window(prior, (range(n), [1] * n, np.full((n, 5), error)))
    assert np.isfinite(prior.prior()).all()
    assert prior.prior().max() > 0


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_by_hand():
    """One small object of class 1 whose loss falls from 4 to 1; a medium one of class 2 whose loss stays 3. After two
    windows the slow mean is (0.9·4 + 1)/1.9, the fast one (0.5·4 + 1)/1.5."""
    prior = Progress(LABELS, CAP)
    assert prior.prior().tolist() == [1.0] * 4
    for loss in (4.0, 1.0):
        window(prior, ([1, 3], [1, 1], [[loss, 3.0, 0.5, 0], [NAN, NAN, 0.5, 0]]))
    fall = math.sqrt(4.6 / 1.9 - 3 / 1.5)
    # image 0 has the falling stratum, and one (large class 1) that was not drawn, which weighs as the highest
    assert prior.prior().tolist() == pytest.approx([fall, fall, 0.0, 0.0])


# --- class_max -------------------------------------------------------------------------------------------------------


def outcome_of(class_loss, object_index, object_labels, logits=None):
    """Images of one row of locations each."""
    owner = torch.tensor(object_index)
    labels = torch.tensor(object_labels)
    found = torch.where(owner >= 0, labels.gather(1, owner.clamp(min=0)), 0)
    maps = {} if logits is None else {"logits": torch.tensor(logits)[:, :, None]}
    return of_maps(
        labels=found[:, None], care=torch.ones_like(found, dtype=torch.bool)[:, None], object_index=owner[:, None],
        class_loss=torch.tensor(class_loss)[:, None], box_loss=torch.zeros(found.shape)[:, None],
        object_area=torch.ones(labels.shape), object_labels=labels, **maps,
    )  # fmt: skip


def test_class_max_by_hand():
    """Losses 3 and 5 of class 1, 2 of class 2, background 4; weights √2, 2, ¼: √2·5 + 2·2 + ¼·4. A learnt rare object
    adds nothing; of two objects with the same loss one counts; without weights each class weighs 1."""
    config = SamplerConfig(name="x", heuristic="loss", reduction="class_max", box_weight=0.0)
    weights = torch.from_numpy(class_weights(LABELS, config)).float()
    assert weights.tolist() == pytest.approx([0.25, math.sqrt(2), 2.0, 1.0])
    outcome = outcome_of(
        [[3.0, 5.0, 2.0, 4.0], [3.0, 3.0, 0.0, 0.0]], [[0, 1, 2, -1], [0, 1, 2, -1]], [[1, 1, 2], [1, 1, 2]]
    )
    expected = [math.sqrt(2) * 5 + 2 * 2 + 0.25 * 4, math.sqrt(2) * 3]
    torch.testing.assert_close(sample_scores(outcome, config, weights), torch.tensor(expected))
    torch.testing.assert_close(sample_scores(outcome, config), torch.tensor([5 + 2 + 1.0, 3.0]))


# --- what a step sees ------------------------------------------------------------------------------------------------


def test_observations_by_hand():
    """a = ½ and ¼ at the two locations of object 0, none of object 1; the background has a foreground probability of
    0.6 in the first image and 0.4 in the second."""
    losses = [[math.log(2), math.log(4), math.log(2.5)]] * 2
    logits = [[[0.0, 0.0, math.log(1 - p)], [0.0, 0.0, math.log(p)]] for p in (0.6, 0.4)]
    outcome = outcome_of(losses, [[0, 0, -1]] * 2, [[1, 2]] * 2, logits)
    expected = [[(0.5 + 0.75) / 2, NAN, 0.6, alarm] for alarm in (1.0, 0.0)]
    torch.testing.assert_close(observations(outcome, "error"), torch.tensor(expected), equal_nan=True)
    mean_loss = (math.log(2) + math.log(4)) / 2
    silent = outcome_of(losses, [[0, 0, -1]] * 2, [[1, 2]] * 2)
    expected = [[mean_loss, NAN, math.log(2.5), NAN]] * 2
    torch.testing.assert_close(observations(silent, "loss"), torch.tensor(expected), equal_nan=True)


# --- in the table ----------------------------------------------------------------------------------------------------


def seen_of(labels, draw, step):
    """Observations that depend on the step and the examples alone."""
    rng = np.random.default_rng([step])
    return rng.uniform(size=(len(draw.indices), labels.counts.max() + 2))


def scheduled(name, labels, lag=2, **changes):
    table = ImportanceTable(len(labels), seed=1, sampler=SAMPLERS[name], run_length=8 * 60, window=5, **changes)
    table.set_labels(labels)
    return DrawSchedule(table, batch_size=8, lag=lag)


def go(schedule, labels, steps):
    out = []
    for step in steps:
        draw = schedule.draw(step)
        out.append((draw.indices.tolist(), draw.probabilities.tolist()))
        schedule.update(step, draw.indices, np.abs(np.sin(draw.indices + step)), seen_of(labels, draw, step))
    return out


ADAPTIVE = ("CAP", "CAP-labels", "CAP-static", "progress")


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_prior_changes_at_fixed_steps_alone(name):
    """Every five updates, and not between."""
    labels = made_labels(60)
    schedule = scheduled(name, labels)
    table = schedule.table
    priors = []
    for step in range(20):
        go(schedule, labels, [step])
        priors.append((table.examples.prior.tobytes(), table.examples.limits.tobytes()))
    changed = [step for step in range(1, 20) if priors[step] != priors[step - 1]]
    assert set(changed) <= {4, 9, 14, 19}
    assert len(changed) >= 2
    assert table.probabilities().sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_resuming_in_the_middle_of_a_window_with_updates_waiting(name):
    labels = made_labels(60)
    whole = scheduled(name, labels)
    go(whole, labels, range(12))
    early = whole.draw(13)
    whole.update(13, early.indices, np.ones(8), seen_of(labels, early, 13))  # waits for step 12
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = scheduled(name, labels)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    steps = [12, *range(14, 50)]
    assert go(resumed, labels, steps) == go(whole, labels, steps)


def test_what_arrives_early_counts_in_its_turn():
    labels = made_labels(60)
    in_order, swapped = scheduled("CAP", labels), scheduled("CAP", labels)
    one = go(in_order, labels, range(24))
    other = {}
    for step in range(0, 24, 2):
        for turn in (step + 1, step):
            draw = swapped.draw(turn)
            other[turn] = (draw.indices.tolist(), draw.probabilities.tolist())
            scores = np.abs(np.sin(draw.indices + turn))
            swapped.update(turn, draw.indices, scores, seen_of(labels, draw, turn))
    assert [other[step] for step in range(24)] == one


def test_a_score_is_clipped_by_its_group():
    """Ten images of class 1 and ten of class 2 with scores 0 … 0.9, one of which a wrong label has made 1.9; between ¼
    and the 90 % quantile of their own class."""
    labels = Labels.from_lists([[1]] * 10 + [[2]] * 10, 2)
    table = ImportanceTable(
        20,
        seed=0,
        sampler=CAP,
        momentum=0.0,
        floor=0.0,
        floor_from=1.0,
        floor_until=1.0,
        window=1,
        prior="empties",
        run_length=100,
    )
    table.set_labels(labels)
    scores = np.tile(np.arange(10) / 10, 2)
    scores[9] = 1.9
    table.update(np.arange(20), scores)
    limits = [np.quantile(scores[:10], 0.9), np.quantile(scores[10:], 0.9)]
    assert table.examples.limits[1:].tolist() == pytest.approx(limits)
    expected = np.clip(scores, 0.25, np.repeat(limits, 10))
    np.testing.assert_allclose(table.probabilities(), expected / expected.sum())
    assert table.scores[9] == 1.9  # the score itself is kept


def test_a_walk_with_such_a_prior_is_rejected():
    with pytest.raises(InputError, match="prior 'class_adaptive' counts what is drawn by its probability"):
        SamplerConfig(name="mine", strategy="rejection", prior="class_adaptive")


def test_observations_of_other_examples_are_rejected():
    labels = made_labels(60)
    schedule = scheduled("CAP", labels)
    indices = schedule.draw(0).indices
    for wrong, seen in [(indices[::-1], np.zeros((8, 6))), (indices, np.zeros((7, 6))), (indices, np.zeros(8))]:
        with pytest.raises(
            InputError, match=r"observations must be \[8, ≥ 2\], of the examples of draw 0 in its order"
        ):
            schedule.update(0, wrong, np.ones(8), seen)
    schedule.update(0, indices, np.ones(8), seen_of(labels, schedule.draw(0), 0))
    plain = DrawSchedule(ImportanceTable(60, seed=0), batch_size=8, lag=0)
    plain.update(0, plain.draw(0).indices, np.ones(8), np.zeros((8, 3)))  # nobody reads them
