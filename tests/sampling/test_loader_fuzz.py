"""Random loops: every score reaches the example that it was made of, or an error comes.

A loop may do everything wrong: too small a lag, batches that are never scored, scored twice, an endless loader,
iterations left early, a second loader, a resume, or a kill after which it resumes from an older state. Scores are made
of the examples themselves.
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from isod.errors import InputError
from isod.sampling import ImportanceBatchSampler, ImportanceSampler, ImportanceTable
from isod.sampling.samplers import SAMPLERS
from isod.sampling.schedule import DrawSchedule
from tests.sampling.loops import EndlessLoader, Indices, assert_scores_are_of_their_examples, scores_of

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")

loops = st.fixed_dictionaries(
    {
        "size": st.integers(6, 24),
        "batch_size": st.integers(1, 6),
        "lag": st.integers(0, 10),
        "drop_last": st.booleans(),
        "single": st.booleans(),  # single indices, and the loader makes the batches
        "endless": st.booleans(),  # of the sampler
        "endless_loader": st.booleans(),
        "workers": st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]),  # processes take time to start
        "prefetch": st.integers(1, 3),
        "persistent": st.booleans(),
        "in_order": st.booleans(),
        "sampler": st.sampled_from(["UIS", "baseline", "InfoBatch"]),
    }
)
actions = st.lists(
    st.fixed_dictionaries(
        {
            "batches": st.integers(1, 8),  # before the iteration is left early
            "accumulation": st.integers(1, 3),
            "reverse": st.booleans(),
            "forget": st.integers(0, 12),  # the batch that is not scored; of most iterations, none
            "twice": st.integers(0, 12),  # the batch that is scored twice
            "then": st.sampled_from(["again", "again", "new loader", "resume", "resume into another", "killed"]),
        }
    ),
    min_size=1,
    max_size=6,
)


class Held:
    """Batches delivered and not scored yet."""

    def __init__(self, sampler):
        self.sampler, self.indices = sampler, []

    def score(self, action):
        indices = self.indices[::-1] if action["reverse"] else self.indices
        self.indices = []
        if indices:
            self.sampler.update(scores_of(torch.tensor(indices)), indices)


def new_sampler(loop):
    table = ImportanceTable(loop["size"], sampler=SAMPLERS[loop["sampler"]], seed=1, run_length=1000)
    kind = ImportanceSampler if loop["single"] else ImportanceBatchSampler
    return table, kind(
        table, batch_size=loop["batch_size"], lag=loop["lag"], drop_last=loop["drop_last"], endless=loop["endless"]
    )


def new_loader(loop, sampler):
    workers = loop["workers"]
    more = dict(prefetch_factor=loop["prefetch"], persistent_workers=loop["persistent"]) if workers else {}
    more |= dict(num_workers=workers, in_order=loop["in_order"])
    dataset = Indices(loop["size"])
    if loop["single"]:
        return DataLoader(dataset, sampler=sampler, batch_size=loop["batch_size"], drop_last=loop["drop_last"], **more)
    return (EndlessLoader if loop["endless_loader"] else DataLoader)(dataset, batch_sampler=sampler, **more)


def run(loop, plan, new_sampler=new_sampler):
    """Return (batches scored, whether the loop ended without an error); fail if a score is another example's."""
    table, sampler = new_sampler(loop)
    loader, scored = new_loader(loop, sampler), 0
    try:
        for action in plan:
            held, older = Held(sampler), sampler.state_dict()
            for number, indices in enumerate(loader):
                held.indices += indices.tolist()
                if number == action["forget"]:
                    held.indices = held.indices[: -len(indices)]
                if number == action["twice"] and held.indices:
                    sampler.update(scores_of(indices), indices)
                if number % action["accumulation"] == action["accumulation"] - 1:
                    held.score(action)
                    scored += 1
                assert_scores_are_of_their_examples(table)
                if number + 1 == action["batches"]:
                    break
            if action["then"] in ("resume", "resume into another", "killed"):
                state = older if action["then"] == "killed" else sampler.state_dict()
                if action["then"] != "resume":
                    table, sampler = new_sampler(loop)
                sampler.load_state_dict(state)
            if action["then"] != "again":
                loader = new_loader(loop, sampler)
    except InputError:
        assert_scores_are_of_their_examples(table)
        return scored, False
    assert_scores_are_of_their_examples(table)
    return scored, True


def fuzz(max_examples, run=run):
    counts = np.zeros(3, int)

    @settings(
        max_examples=max_examples, deadline=None, database=None, derandomize=max_examples < 1000,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(loops, actions)
    def try_one(loop, plan):
        scored, fine = run(loop, plan)
        counts[:] += (1, scored, fine)

    try_one()
    return counts


def test_random_loops():
    tried, scored, fine = fuzz(120)
    assert scored > tried / 2
    assert 0 < fine < tried


class WithoutIndices:
    """The sampler of isod 0.1.0: scores are those of the oldest batch without any, whatever the loader delivered."""

    def __init__(self, table, batch_size, lag):
        self.batch_size, self.length = batch_size, max(1, table.num_examples // batch_size)
        self.schedule = DrawSchedule(table, batch_size=batch_size, lag=lag)
        self.state_dict, self.load_state_dict = self.schedule.state_dict, self.schedule.load_state_dict

    def __len__(self):
        return self.length

    def __iter__(self):
        for step in range(self.schedule.applied, self.schedule.applied + self.length):
            if not self.schedule.ready(step):
                raise InputError("batch was asked for too early")
            yield self.schedule.draw(step).indices.tolist()

    def update(self, scores, indices):
        if scores.shape != (self.batch_size,):
            raise InputError("update needs batch_size scores")
        draw = self.schedule.draw(self.schedule.applied)
        self.schedule.update(self.schedule.applied, draw.indices, scores.double().numpy())


def test_the_same_loops_find_the_fault_of_the_sampler_before():
    silent = 0

    def new_sampler(loop):
        table = ImportanceTable(loop["size"], sampler=SAMPLERS[loop["sampler"]], seed=1, run_length=1000)
        return table, WithoutIndices(table, loop["batch_size"], loop["lag"])

    def count(loop, plan):
        nonlocal silent
        try:
            return run(loop | {"single": False}, plan, new_sampler)
        except AssertionError:
            silent += 1
            return 0, False

    tried, _, _ = fuzz(120, count)
    print(f"{tried} loops, {silent} gave an example another's score without an error")
    assert silent > 5


def test_the_sampler_before_in_an_endless_loader():
    """Two workers: 4 batches are in flight when the epoch of 10 batches ends, and are drawn a second time.

    From then on each batch is given the scores of the one 4 before it.
    """
    table = ImportanceTable(20, sampler=SAMPLERS["UIS"], seed=0)
    sampler = WithoutIndices(table, batch_size=2, lag=4)
    loader, wrong = EndlessLoader(Indices(20), sampler, num_workers=2), 0
    for _ in range(4):
        for indices in loader:
            wrong += indices.tolist() != sampler.schedule.draw(sampler.schedule.applied).indices.tolist()
            sampler.update(scores_of(indices), indices)
    assert wrong == 30


@pytest.mark.slow
def test_many_random_loops():
    tried, scored, fine = fuzz(int(os.environ.get("ISOD_FUZZ_LOOPS", "3000")))
    print(f"{tried} loops, {scored} updates, {fine} loops without an error, no score of another example")
    assert 0 < fine < tried


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    loops.map(lambda loop: loop | {"workers": 0, "single": False, "endless_loader": False, "endless": False}),
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_right_loops_raise_no_error_and_skip_or_repeat_nothing(loop, lengths, accumulation):
    """Iterations left early at an update, resumed each time in a new sampler: the batches of one that never stopped."""
    loop = loop | {"lag": max(loop["lag"], accumulation - 1)}

    def go(lengths, stop):
        batches = []
        sampler = new_sampler(loop)[1]
        for length in lengths:
            for _ in range(length):
                held, iterator = [], iter(sampler)
                for _ in range(accumulation):
                    held += [batch] if (batch := next(iterator, None)) else []
                flat = [index for batch in held for index in batch]
                sampler.update(scores_of(torch.tensor(flat)), flat)
                batches += held
            if stop:
                state = sampler.state_dict()
                sampler = new_sampler(loop)[1]
                sampler.load_state_dict(state)
        return batches

    assert go(lengths, stop=True) == go([sum(lengths)], stop=False)
