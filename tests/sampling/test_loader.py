"""The samplers in torch's loaders: with workers, endless, left early, resumed, and on two ranks."""

import os
import time
from itertools import islice

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.utils.data import BatchSampler, DataLoader

from isod.errors import InputError
from isod.sampling import ImportanceBatchSampler, ImportanceSampler, ImportanceTable, lag_for
from isod.sampling.loader import _collective_device
from isod.sampling.samplers import SAMPLERS
from tests.sampling.loops import EndlessLoader, Indices, assert_scores_are_of_their_examples, scores_of

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")


def batch_sampler(size: int = 40, *, sampler: str = "UIS", seed: int = 0, batch_size: int = 8, **settings):
    table = ImportanceTable(size, sampler=SAMPLERS[sampler], seed=seed)
    return ImportanceBatchSampler(table, batch_size=batch_size, **settings)


def score_epochs(sampler, loader, epochs: int = 1, never: int | None = None) -> None:
    """Score all batches of a loader; ``never`` is an example whose score is NaN."""
    for _ in range(epochs):
        for indices in loader:
            scores = torch.tensor([torch.nan if int(i) == never else 1.0 for i in indices])
            sampler.update(scores, indices, skip_nonfinite=never is not None)


def train(sampler, steps: int, size: int = 40, **loader_settings) -> list[list[int]]:
    """Batches of a loop that begins a new iteration whenever one ends, until ``steps`` batches are trained."""
    batches: list[list[int]] = []
    while len(batches) < steps:
        for indices in DataLoader(Indices(size), batch_sampler=sampler, **loader_settings):
            batches.append(indices.tolist())
            sampler.update(scores_of(indices), indices)
            if len(batches) == steps:
                break
    return batches


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_batches_whatever_the_number_of_workers(workers):
    expected = train(batch_sampler(lag=lag_for(2)), 23)  # 5 batches an iteration: left early in the fifth
    assert train(batch_sampler(lag=lag_for(2)), 23, num_workers=workers) == expected
    assert train(batch_sampler(), 23) != expected


def test_an_endless_loader_and_its_workers_do_not_mix_up_the_batches():
    """The fault: an epoch begins while the last batches of the one before are in flight."""
    sampler = batch_sampler(20, batch_size=4, lag=lag_for(2), endless=True)
    loader = EndlessLoader(Indices(20), sampler, num_workers=2)
    batches = []
    for _ in range(8):
        for indices in loader:
            batches.append(indices.tolist())
            sampler.update(scores_of(indices), indices)
    assert len(batches) == 40
    assert sampler.step == 40
    assert_scores_are_of_their_examples(sampler.sampler.table)
    assert batches == train(batch_sampler(20, batch_size=4, lag=4), 40, size=20)


def test_an_endless_loader_needs_an_endless_sampler():
    sampler = batch_sampler(20, batch_size=4, lag=8)
    loader = EndlessLoader(Indices(20), sampler, num_workers=2)

    def run():
        for _ in range(8):
            for indices in loader:
                sampler.update(scores_of(indices), indices)

    with pytest.raises(InputError, match="endless=True"):
        run()
    assert_scores_are_of_their_examples(sampler.sampler.table)


def test_single_indices_in_a_loader_that_makes_its_own_batches():
    def run(**settings):
        table = ImportanceTable(22, sampler=SAMPLERS["UIS"], seed=3)
        sampler = ImportanceSampler(table, batch_size=8, lag=lag_for(2), **settings)
        loader = DataLoader(Indices(22), sampler=sampler, batch_size=8, num_workers=2)
        batches = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            for indices in loader:
                batches.append(indices.tolist())
                sampler.update(scores_of(indices), indices)
        assert len(batches) == 4 * len(loader)
        return batches, table

    batches, table = run()
    assert [len(batch) for batch in batches] == 4 * [8, 8, 6]
    assert sorted(np.concatenate(batches[:3])) == list(range(22))  # the first epoch is each example once
    assert_scores_are_of_their_examples(table)
    assert [len(batch) for batch in run(drop_last=True)[0]] == 4 * [8, 8]


def test_the_batch_sampler_is_one_of_torch():
    sampler = batch_sampler(22, drop_last=False)
    assert isinstance(sampler, BatchSampler)
    assert (sampler.batch_size, sampler.drop_last, len(sampler), len(sampler.sampler)) == (8, False, 3, 22)
    assert (len(batch_sampler(22)), len(batch_sampler(22).sampler)) == (2, 16)
    assert len(batch_sampler(22, length=7)) == 7
    # what a framework rebuilds from the parts draws the same
    rebuilt = BatchSampler(batch_sampler(22, drop_last=False, lag=2).sampler, 8, False)
    assert list(rebuilt) == list(batch_sampler(22, drop_last=False, lag=2))


def test_draw_t_sees_the_scores_of_steps_up_to_t_minus_1_minus_lag():
    """lag 2: the loader may hold three batches, and the fourth needs the scores of the first."""
    sampler = batch_sampler(lag=2)
    batches = iter(sampler)
    held = [next(batches) for _ in range(3)]
    with pytest.raises(InputError, match=r"batch 3 .* batch 0 has no scores: it reads 3 ahead, .* lag is 2.*lag_for"):
        next(batches)
    batches = iter(sampler)
    assert [next(batches) for _ in range(3)] == held
    sampler.update(torch.ones(8), held[0])
    assert len(next(batches)) == 8


def test_lag_for():
    assert lag_for() == 0
    assert lag_for(3) == 6
    assert lag_for(2, 4, lookahead=1, accumulation=3) == 11  # 8 by the workers, 1 by accelerate, 2 of the same step
    with pytest.raises(InputError, match="accumulation"):
        lag_for(accumulation=0)


@pytest.mark.parametrize("together", [2, 3])
def test_gradient_accumulation_scores_several_batches_at_once(together):
    sampler = batch_sampler(22, drop_last=False, lag=lag_for(2, accumulation=together))
    held: list[int] = []
    for _ in range(3):
        for step, indices in enumerate(DataLoader(Indices(22), batch_sampler=sampler, num_workers=2)):
            held += indices.tolist()
            if step % together == together - 1 or step == len(sampler) - 1:
                sampler.update(scores_of(held[::-1]), held[::-1])
                held = []
    assert sampler.step == 9
    assert_scores_are_of_their_examples(sampler.sampler.table)


def test_parts_of_a_batch_may_be_scored_one_by_one():
    sampler = batch_sampler(lag=1)
    batch = next(iter(sampler))
    sampler.update(scores_of(batch[5:]), batch[5:])
    assert sampler.step == 0
    for scores, indices in [
        (torch.ones(1), batch[5:6]),
        (torch.ones(1), [sampler.sampler.schedule.draw(1).indices[0]]),
    ]:
        with pytest.raises(InputError, match="not in flight"):
            sampler.update(scores, indices)
    state = sampler.state_dict()
    sampler.update(scores_of(batch[:5]), batch[:5])
    assert sampler.step == 1
    resumed = batch_sampler(lag=1)
    resumed.load_state_dict(state)
    assert next(iter(resumed)) == batch[:5]  # what was scored is not handed out again
    assert torch.equal(resumed.weights(batch[:5]), torch.ones(5))


def test_an_example_drawn_several_times_has_as_many_scores():
    sampler = batch_sampler(2, batch_size=8)  # 8 draws of 2 examples
    batch = next(iter(sampler))
    assert set(batch) == {0, 1}
    with pytest.raises(InputError, match="not in flight"):
        sampler.update(torch.ones(9), [*batch, 0])
    sampler.update(torch.ones(8), batch)
    assert sampler.step == 1


def test_weights_belong_to_their_examples():
    table = ImportanceTable(40, seed=0, weight_exponent=1.0)
    sampler = ImportanceBatchSampler(table, batch_size=8, lag=1)
    train(sampler, 7)
    batch = next(iter(sampler))
    draw = sampler.sampler.schedule.draw(sampler.step)
    expected = dict(zip(draw.indices.tolist(), draw.weights.tolist(), strict=True))
    assert sampler.weights(torch.tensor(batch[::-1])).tolist() == pytest.approx([expected[i] for i in batch[::-1]])


@pytest.mark.parametrize("together", [2, 3])
def test_weights_of_several_batches_before_one_update(together):
    """Eight examples in batches of four: each is in flight more than once, with another probability in each draw."""
    table = ImportanceTable(8, seed=0, weight_exponent=1.0, floor=0.2)
    sampler = ImportanceBatchSampler(table, batch_size=4, lag=lag_for(accumulation=together), endless=True)
    held: list[int] = []
    different = 0
    for step, batch in enumerate(islice(sampler, 24)):
        expected = sampler.sampler.schedule.draw(step).weights.tolist()
        assert sampler.weights(batch).tolist() == pytest.approx(expected)
        different += len(set(expected)) > 1
        held += batch
        if step % together == together - 1:
            sampler.update(torch.tensor([float(step * i % 7 + 1) for i in held]), held)
            held = []
    assert different > 10


def test_a_weight_is_asked_for_once():
    table = ImportanceTable(40, seed=0, weight_exponent=1.0)
    sampler = ImportanceBatchSampler(table, batch_size=8)
    batch = next(iter(sampler))
    sampler.weights(batch[:3])
    with pytest.raises(InputError, match=f"example {batch[2]} has its weight already: call weights"):
        sampler.weights(batch[2:])
    sampler.update(torch.ones(8), batch)
    with pytest.raises(InputError, match=f"example {batch[0]} is not in flight"):
        sampler.weights(batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_makes_batches_of_single_indices_resumes_in_the_middle_of_one(workers):
    def loader(state=None):
        sampler = ImportanceSampler(ImportanceTable(40, seed=0), batch_size=8, lag=lag_for(workers))
        if state:
            sampler.load_state_dict(state)
        return sampler, DataLoader(Indices(40), sampler=sampler, batch_size=8, num_workers=workers)

    sampler, batches = loader()
    first = next(iter(batches))
    sampler.update(scores_of(first[:3]), first[:3])
    sampler, batches = loader(sampler.state_dict())
    seen = []
    for indices in batches:
        seen.append(indices.tolist())
        sampler.update(scores_of(indices), indices)
    assert seen[0] == first.tolist()
    assert sorted(index for batch in seen for index in batch) == list(range(40))
    assert_scores_are_of_their_examples(sampler.table)


class SlowStart(Indices):
    """The first batch takes longer than all others."""

    def __getitem__(self, index):
        time.sleep(0.2 if index in self.slow else 0)
        return super().__getitem__(index)


def test_a_loader_whose_batches_come_out_of_order():
    sampler = batch_sampler(80, lag=lag_for(2))
    dataset = SlowStart(80)
    dataset.slow = set(sampler.sampler.schedule.draw(0).indices.tolist())
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2, in_order=False)
    with pytest.raises(InputError, match="or the loader has in_order=False"):
        score_epochs(sampler, loader)


class OfAnotherDevice:
    """What ``torch.load(path, map_location="cuda")`` makes of a tensor, as far as a state's reader may use it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def detach(self):
        return self

    def cpu(self):
        return self.tensor


def test_a_state_that_was_loaded_onto_another_device():
    def moved(state):
        if isinstance(state, dict):
            return {key: moved(value) for key, value in state.items()}
        if isinstance(state, list):
            return [moved(value) for value in state]
        return OfAnotherDevice(state) if isinstance(state, torch.Tensor) else state

    sampler = batch_sampler(lag=2)
    train(sampler, 7)
    resumed = batch_sampler(lag=2)
    resumed.load_state_dict(moved(sampler.state_dict()))
    assert train(resumed, 7) == train(sampler, 7)


def test_settings_that_are_numbers_of_numpy_are_saved_as_numbers(tmp_path):
    def made():
        table = ImportanceTable(np.int64(40), seed=np.int64(3), floor=np.float64(0.1), run_length=np.int64(100))
        return ImportanceBatchSampler(table, batch_size=8, lag=np.int64(1))

    torch.save(made().state_dict(), tmp_path / "state.pt")
    made().load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loop_left_early_gets_again_what_was_in_flight(persistent):
    expected = train(batch_sampler(lag=4), 20)
    sampler, batches = batch_sampler(lag=4), []
    loader = DataLoader(Indices(), batch_sampler=sampler, num_workers=2, persistent_workers=persistent)
    while len(batches) < 20:
        for indices in islice(loader, 3):
            batches.append(indices.tolist())
            sampler.update(scores_of(indices), indices)
    assert batches[:20] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_the_middle_of_an_epoch_with_batches_in_flight(workers):
    def sampler():
        return batch_sampler(38, sampler="LIS", seed=1, drop_last=False, lag=4)

    whole = train(sampler(), 30, size=38)
    first = sampler()
    head = train(first, 13, size=38, num_workers=workers)
    second = sampler()
    second.load_state_dict(first.state_dict())
    assert len(list(islice(second, 4))) == 2  # batches 13 and 14 end the epoch
    assert head + train(second, 17, size=38, num_workers=workers) == whole


def train_until_killed(folder):
    """Train 30 batches with workers, and save after each one what a resume needs."""
    torch.set_num_threads(1)
    sampler, batches = batch_sampler(38, sampler="LIS", seed=1, drop_last=False, lag=4), []
    if (saved := folder / "saved.pt").exists():
        state, batches = torch.load(saved, weights_only=True)
        sampler.load_state_dict(state)
    while len(batches) < 30:
        for indices in DataLoader(Indices(38), batch_sampler=sampler, num_workers=2):
            batches.append(indices.tolist())
            sampler.update(scores_of(indices), indices)
            torch.save((sampler.state_dict(), batches), folder / "new.pt")
            (folder / "new.pt").replace(saved)
            if len(batches) == 30:
                break


@pytest.mark.slow
def test_killed_processes_skip_and_repeat_nothing(tmp_path):
    kills, rng = 0, np.random.default_rng(0)
    while True:
        process = multiprocessing.get_context("fork").Process(target=train_until_killed, args=(tmp_path,))
        process.start()
        process.join(rng.random() * (1 + kills / 4))  # the longer, the slower the machine
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
        assert kills < 200
    assert process.exitcode == 0
    assert kills > 0
    state, batches = torch.load(tmp_path / "saved.pt", weights_only=True)
    whole = batch_sampler(38, sampler="LIS", seed=1, drop_last=False, lag=4)
    assert batches == train(whole, 30, size=38)
    assert torch.equal(state["table"]["score"], whole.state_dict()["table"]["score"])


def test_two_iterations_at_once():
    sampler = batch_sampler(lag=4)
    older, newer = iter(sampler), iter(sampler)
    next(older)
    next(newer)
    with pytest.raises(InputError, match="one iteration at a time"):
        next(older)


def test_bad_input():
    sampler = batch_sampler()
    with pytest.raises(InputError, match="not asked this sampler"):
        sampler.update(torch.ones(8), range(8))
    batch = next(iter(sampler))
    for scores, indices, message in [
        (torch.ones(7), batch, "one score per example, 8 here"),
        (torch.ones(20), batch, "one score per example, 8 here.*objects"),
        (torch.ones(8, 1), batch, r"\[8, 1\]"),
        (torch.full((8,), torch.nan), batch, "finite"),
        (-torch.ones(8), batch, "≥ 0"),
        (torch.ones(1), [0.5], "integers"),
        (["a"] * 8, batch, "scores must be real numbers"),
        (torch.ones(1), [40], "not in flight"),
    ]:
        with pytest.raises(InputError, match=message):
            sampler.update(scores, indices)
    assert sampler.step == 0
    with pytest.raises(InputError, match="the dataset has 41 examples and the importance table 40"):
        sampler.indexed(Indices(41))
    assert sampler.indexed(Indices(40))[7] == (7, 7)
    for bad in (dict(batch_size=0), dict(length=0), dict(rank=2, world_size=2), dict(lag=-1)):
        with pytest.raises(InputError):
            ImportanceSampler(ImportanceTable(40, seed=0), **(dict(batch_size=8) | bad))
    alone = ImportanceSampler(ImportanceTable(40, seed=0), batch_size=8, rank=0, world_size=2)
    with pytest.raises(InputError, match=r"built for 2 ranks.*init_process_group first"):
        next(iter(alone))
    with pytest.raises(InputError, match=r"no state of an importance table, it has no num_examples, sampler, seed"):
        ImportanceTable(40, seed=0).load_state_dict(sampler.state_dict())


def test_scores_that_are_not_finite_are_counted_where_the_framework_skips_the_step():
    sampler = batch_sampler(16)
    first, second = train_two_batches_of_nan(sampler)
    assert sampler.sampler.skipped == 11
    table = sampler.sampler.table
    assert [i for i in range(16) if table.last_step[i] == -1] == sorted([*first[:3], *second])
    assert sampler.step == 2  # the step without a score is done too


def test_an_example_whose_score_is_never_finite_is_named():
    sampler = batch_sampler(16)
    with pytest.warns(UserWarning, match=r"1 of 16 examples, 5 the first, have no score after two epochs.*eligible="):
        score_epochs(sampler, sampler, epochs=3, never=5)
    assert not sampler.sampler.table.primed


@pytest.mark.parametrize(
    ("backends", "kind"),
    [("cpu:gloo,cuda:gloo", "cpu"), ("cuda:nccl", "cuda"), ("cpu:gloo,cuda:nccl", "cpu"), ("xpu:xccl", "xpu")],
)
def test_scores_travel_on_a_device_that_the_ranks_exchange(backends, kind):
    assert _collective_device(backends) == torch.device(kind)


def train_two_batches_of_nan(sampler):
    batches = []
    for unusable, batch in zip((3, 8), sampler, strict=True):
        scores = scores_of(batch)
        scores[:unusable] = torch.nan
        sampler.update(scores, batch, skip_nonfinite=True)
        batches.append(batch)
    return batches


def on_rank(rank: int, world_size: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    sampler = batch_sampler(batch_size=8 // world_size, lag=1)
    batches = train(sampler, 30)
    torch.save((batches, sampler.state_dict()), f"{folder}/{rank}.pt")
    batch = next(iter(sampler))
    with pytest.raises(InputError, match="finite" if rank == 1 else "rank 1 could not use its scores"):
        sampler.update(torch.tensor([1.0, 1.0, 1.0, torch.nan if rank == 1 else 1.0]), batch)
    batches = iter(sampler)
    held = [next(batches), next(batches)]
    with pytest.raises(InputError, match=r"rank 0 scored batches \[30\] and rank 1 batches .*31\]"):
        sampler.update(torch.ones(4), held[rank])
    assert sampler.step == 30
    sampler.update(torch.ones(4), held[0])
    assert sampler.step == 31
    torch.distributed.destroy_process_group()
    with pytest.raises(InputError, match="after init_process_group"):
        sampler.update(torch.ones(4), held[1])


def test_two_ranks_share_one_global_batch(tmp_path):
    multiprocessing.spawn(on_rank, args=(2, os.fspath(tmp_path)), nprocs=2)
    parts, states = zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)), strict=True)
    alone = batch_sampler(lag=1)
    expected = train(alone, 30)
    assert [one + other for one, other in zip(*parts, strict=True)] == expected
    first_epoch = np.concatenate(expected[:5])
    assert len(set(first_epoch.tolist())) == 40  # no example on two ranks unless it was drawn twice
    for key, value in alone.state_dict()["table"].items():
        for state in states:
            other = state["table"][key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
