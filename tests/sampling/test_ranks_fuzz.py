"""Random loops on two ranks: every score reaches the example that it was made of on both, or an error comes on both.

The ranks go in step, so that no rank waits for one that failed. One of them may do everything wrong: leave a batch out,
score one twice, score the other's examples; or a framework shards the sampler a second time. Loops read ahead, are left
early, and resume in another process from the state that rank 0 saved: the last one, or after a kill an older one.
"""

import io
import os
from collections import deque
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from isod.errors import InputError
from tests.sampling.loops import assert_scores_are_of_their_examples, scores_of
from tests.sampling.test_loader_fuzz import loops, new_sampler

RANKS = 2
never_or_at = st.integers(0, 25)  # the batch that it happens at; of most iterations, none
actions = st.lists(
    st.fixed_dictionaries(
        {
            "batches": st.integers(1, 8),  # before the iteration is left early
            "ahead": st.integers(0, 3),  # batches that the loader reads ahead
            "accumulation": st.integers(1, 3),
            "reverse": st.booleans(),
            "rank": st.integers(0, RANKS - 1),  # who does what follows
            "forget": never_or_at,
            "twice": never_or_at,
            "swap": never_or_at,
            "overflow": never_or_at,
            "shard": st.sampled_from([*[False] * 15, True]),
            "then": st.sampled_from(["again", "again", "resume", "resume into another", "killed"]),
        }
    ),
    min_size=1,
    max_size=6,
)


def of_all_ranks(value):
    values = [None] * RANKS
    distributed.all_gather_object(values, value)
    return values


def on_all(work, *, alike=False):
    """Return what the work gives here; raise on all ranks if one of them does, and fail if ``alike`` and not all do."""
    result, said = None, ""
    try:
        result = work()
    except InputError:
        said = "InputError"
    except AssertionError as error:
        said = f"example {error} has another's score"
    words = of_all_ranks(said)
    assert set(words) <= {"", "InputError"}, words
    assert not alike or len(set(words)) == 1, words
    if any(words):
        raise InputError("a rank failed")
    return result


def read_ahead(batches, ahead):
    """The batches, each handed out when so many more were asked for."""
    waiting = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def check(table):
    on_all(lambda: assert_scores_are_of_their_examples(table))
    one, other = of_all_ranks(table.scores.tolist())
    assert one == other


def iterate(rank, sampler, action):
    """Run one iteration over the sampler, and return how many updates it made."""
    wrong, updates, held = action["rank"] == rank, 0, []
    stream = read_ahead(sampler.batches(), action["ahead"])
    if action["shard"]:
        stream = islice(stream, rank, None, RANKS)

    def update(indices, overflow=False):
        scores = scores_of(torch.tensor(indices, dtype=torch.int64))
        if overflow:
            scores[:1] = torch.nan
        on_all(lambda: sampler.update(scores, indices, skip_nonfinite=True), alike=True)

    for number in range(action["batches"]):
        batch = on_all(lambda: next(stream, None))
        if None in of_all_ranks(batch):
            break
        held += [] if wrong and number == action["forget"] else batch
        if number % action["accumulation"] == action["accumulation"] - 1:
            indices, held = held[::-1] if action["reverse"] else held, []
            others = of_all_ranks(indices)[1 - rank]
            update(others if wrong and number == action["swap"] else indices, wrong and number == action["overflow"])
            updates += 1
            if number == action["twice"]:
                update(indices if wrong else [])
    return updates


def run(rank, loop, plan):
    """Return (updates, whether the loop ended without an error); fail if a score is another example's."""
    sampler, updates, fine = None, 0, True
    try:
        sampler = new_sampler(loop)[1].sampler
        for action in plan:
            older = sampler.state_dict()
            updates += iterate(rank, sampler, action)
            check(sampler.table)
            if action["then"] == "resume":
                sampler.load_state_dict(sampler.state_dict())
            elif action["then"] in ("resume into another", "killed"):
                file = io.BytesIO()
                torch.save(older if action["then"] == "killed" else sampler.state_dict(), file)
                saved = of_all_ranks(file.getvalue())[0]
                sampler = new_sampler(loop)[1].sampler
                sampler.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
    except InputError:
        fine = False
    if sampler is not None:
        check(sampler.table)
    return updates, fine


def on_rank(rank, folder, max_examples):
    """Rank 0 makes up the loops and hands them to the other."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    counts = np.zeros(3, int)

    def share(item):
        box = [item]
        distributed.broadcast_object_list(box)
        return box[0]

    @settings(
        max_examples=max_examples, deadline=None, database=None, derandomize=max_examples < 1000,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(loops.map(lambda loop: loop | {"single": False, "batch_size": 1 + loop["batch_size"] // 2}), actions)
    def try_one(loop, plan):
        share((loop, plan))
        counts[:] += (1, *run(rank, loop, plan))

    if rank == 0:
        try:
            try_one()
        finally:
            share(None)
        torch.save(torch.from_numpy(counts), f"{folder}/counts.pt")
    else:
        while (found := share(None)) is not None:
            try:
                run(rank, *found)
            except AssertionError:  # of both ranks: rank 0 reports it
                continue
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "loops", [150, pytest.param(int(os.environ.get("ISOD_FUZZ_LOOPS", "3000")), marks=pytest.mark.slow)]
)
def test_random_loops_on_two_ranks(tmp_path, monkeypatch, loops):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    multiprocessing.spawn(on_rank, args=(os.fspath(tmp_path), loops), nprocs=RANKS)
    tried, updates, fine = torch.load(tmp_path / "counts.pt").tolist()
    print(f"{tried} loops, {updates} updates on two ranks, {fine} loops without an error, no score of another example")
    assert updates > tried
    assert 0 < fine < tried
