"""The schedule: which updates a draw has seen, whatever the order they come in."""

import io

import numpy as np
import pytest
import torch

from isod.errors import InputError
from isod.sampling import Draw, DrawSchedule, ImportanceTable
from isod.sampling.samplers import SAMPLERS
from tests.sampling.labelled import labelled_table


class Recorder:
    """A table that writes down what is asked of it."""

    def __init__(self):
        self.log = []

    def draw(self, n):
        self.log.append(("draw", n))
        return Draw(np.zeros(n, np.int64), np.ones(n), np.ones(n), step=len(self.log), version=0)

    def update(self, indices, scores):
        self.log.append(("update", int(scores[0])))

    def checked(self, indices, scores):
        return np.asarray(indices), np.asarray(scores, np.float64)


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_draw_t_sees_exactly_the_updates_up_to_t_minus_1_minus_lag(lag):
    table = Recorder()
    schedule = DrawSchedule(table, batch_size=3, lag=lag)
    for step in range(12):
        assert schedule.ready(step + lag)
        assert not schedule.ready(step + lag + 1)
        schedule.update(step, [0], [step])
    t, applied = 0, -1
    for what, value in table.log:
        if what == "update":
            assert value == applied + 1
            applied = value
        else:
            assert applied == max(t - 1 - lag, -1)
            t += 1
    assert t == 12 + lag + 1


def run(order, lag, *, sampler="UIS", steps=60):
    """Draws of ``steps`` steps whose scores arrive as ``order(step)`` says, a permutation within each lag + 1 steps."""
    schedule = DrawSchedule(
        ImportanceTable(40, sampler=SAMPLERS[sampler], seed=0, run_length=steps * 8), batch_size=8, lag=lag
    )
    drawn = {}
    for first in range(0, steps, lag + 1):
        steps_now = [step for step in range(first, min(first + lag + 1, steps))]
        for step in steps_now:
            drawn[step] = schedule.draw(step).indices.tolist()
        for step in order(steps_now):
            indices = schedule.draw(step).indices
            schedule.update(step, indices, indices % 7 + step % 3)
    return drawn


@pytest.mark.parametrize("sampler", ["UIS", "UIS-RB", "InfoBatch", "loss-rank"])
def test_updates_may_arrive_in_any_order(sampler):
    forward = run(lambda steps: steps, 3, sampler=sampler)
    assert run(lambda steps: steps[::-1], 3, sampler=sampler) == forward
    rng = np.random.default_rng(0)
    assert run(lambda steps: rng.permutation(steps).tolist(), 3, sampler=sampler) == forward
    assert run(lambda steps: steps, 2, sampler=sampler) != forward


def test_a_draw_is_the_same_until_it_is_released():
    schedule = DrawSchedule(ImportanceTable(20, sampler=SAMPLERS["LIS"], seed=0), batch_size=4, lag=1)
    first = schedule.draw(0)
    assert schedule.draw(0) is first
    with pytest.raises(InputError, match="draw 2 is not ready: it needs the scores of step 0"):
        schedule.draw(2)
    schedule.update(0, first.indices, np.ones(4))
    schedule.draw(2)
    with pytest.raises(InputError, match="released"):
        schedule.draw(0)
    with pytest.raises(InputError, match="released"):
        schedule.update(0, first.indices, np.ones(4))
    with pytest.raises(InputError, match="not ready"):
        schedule.update(3, first.indices, np.ones(4))


def test_refused_scores_leave_the_step_open():
    schedule = DrawSchedule(ImportanceTable(20, sampler=SAMPLERS["LIS"], seed=0), batch_size=4, lag=1)
    indices = schedule.draw(1).indices
    with pytest.raises(InputError, match="finite"):
        schedule.update(1, indices, [1, 2, np.nan, 3])
    schedule.update(1, indices, [1, 2, 3, 4])
    assert schedule.applied == 0
    schedule.update(0, schedule.draw(0).indices, [1, 2, 3, 4])
    assert schedule.applied == 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resuming_with_draws_under_way_and_updates_waiting(sampler):
    def schedule():
        return DrawSchedule(
            labelled_table(30, sampler=SAMPLERS[sampler], seed=9, eligible=range(1, 30), run_length=8 * 50),
            batch_size=8,
            lag=3,
        )

    def go(one, steps):
        out = []
        for step in steps:
            draw = one.draw(step)
            out.append((draw.indices.tolist(), draw.probabilities.tolist(), draw.weights.tolist(), draw.version))
            one.update(step, draw.indices, draw.indices * 0.1 + step % 5)
        return out

    whole = schedule()
    go(whole, range(20))
    early = whole.draw(21)
    whole.update(21, early.indices, np.ones(8))  # waits for step 20
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = schedule()
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    steps = [20, *range(22, 60)]
    assert go(resumed, steps) == go(whole, steps)


def test_a_state_of_another_lag_or_batch_size_is_refused():
    state = DrawSchedule(ImportanceTable(20, sampler=SAMPLERS["LIS"], seed=0), batch_size=4, lag=1).state_dict()
    for batch_size, lag in [(5, 1), (4, 2)]:
        other = DrawSchedule(ImportanceTable(20, sampler=SAMPLERS["LIS"], seed=0), batch_size=batch_size, lag=lag)
        with pytest.raises(InputError, match="saved schedule"):
            other.load_state_dict(state)
    for bad in (dict(batch_size=0, lag=1), dict(batch_size=1, lag=-1)):
        with pytest.raises(InputError):
            DrawSchedule(ImportanceTable(20, sampler=SAMPLERS["LIS"], seed=0), **bad)


def test_no_draw_is_made_beyond_the_last_step():
    table = ImportanceTable(10, sampler=SAMPLERS["LIS"], seed=0)
    schedule = DrawSchedule(table, batch_size=2, lag=3, steps=5)
    for step in range(5):
        schedule.update(step, schedule.draw(step).indices, [1.0, 1.0])
    assert table.draw_count.sum() == 5 * 2
    assert not schedule.ready(5)
    with pytest.raises(InputError, match="beyond the last of 5 steps"):
        schedule.draw(5)
