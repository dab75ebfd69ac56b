"""The Ray stream gives what the local one gives: the same draws and crops in the same order, whatever the workers."""

import asyncio
import gc
import time
from dataclasses import replace

import numpy as np
import pytest

from isod.data.store.crops import Crops
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.objects import Objects
from isod.orchestration.stream import RayStream, pack, unpack
from isod.orchestration.table_actor import Assignment, TableActor
from isod.sampling.table import Draw
from isod.training.examples import TrainingExamples, labels_of
from isod.training.stream import WHOLE_BATCH, local_stream
from tests.training.tiny_run import tiny_run

STEPS = 20  # of 8 of 64 crops: 8 steps of the sequential first epoch, then 12 by the scores


def config_with(lag, sampler="UIS"):
    config = tiny_run(sampler, lag=lag, iterations=STEPS)
    return replace(config, sampler=replace(config.sampler, window=3))  # a prior that follows the training changes often


def scores_of(step, indices):
    """Made-up scores, far from uniform, different at every step."""
    return (indices % 7 + 0.1) ** 2 / (step + 1)


def seen_of(step, indices):
    """Made up likewise: what a step saw of its examples' objects, of which most have two or fewer."""
    return np.random.default_rng(step).random((len(indices), 7)) / (step + 1)


def examples_of(store, prior=None):
    split = CropStore.open(store).split("train")
    return TrainingExamples(
        len(split), split.readable, labels=None if prior is None else labels_of(split, split.readable)
    )


@pytest.fixture
def ray_stream(ray_local, tiny_store):
    """Makes Ray streams of the tiny store, and closes them."""
    made = []

    def make(config, workers=1):
        stream = RayStream(workers=workers, cpus_per_worker=0.25)
        stream.begin(tiny_store, config, examples_of(tiny_store, config.sampler.prior))
        made.append(stream)
        return stream

    yield make
    for stream in made:
        stream.close()


def train_on(stream, stop=STEPS):
    """Goes through the stream as the training loop does; every batch, and the table's statistics."""
    batches = []
    for batch in stream.batches(0, stop):
        batches.append(batch)
        indices = batch.draw.indices
        stream.send_scores(batch.step, indices, scores_of(batch.step, indices), seen_of(batch.step, indices))
    return batches, stream.statistics(stop - 1), stream.summary(stop - 1)


def assert_same(first, second):
    assert first.step == second.step
    for name in ("indices", "probabilities", "weights"):
        np.testing.assert_array_equal(getattr(first.draw, name), getattr(second.draw, name))
    assert (first.draw.step, first.draw.version) == (second.draw.step, second.draw.version)
    np.testing.assert_array_equal(first.crops.indices, second.crops.indices)
    np.testing.assert_array_equal(first.crops.images, second.crops.images)
    np.testing.assert_array_equal(first.crops.unreadable, second.crops.unreadable)
    for name in ("boxes", "labels", "dont_care", "counts"):
        one, other = getattr(first.crops.objects, name), getattr(second.crops.objects, name)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("workers", "lag", "sampler"),
    [
        (2, 0, "UIS"),
        (2, 4, "UIS"),
        *(pytest.param(*pair, "UIS", marks=pytest.mark.slow) for pair in ((1, 0), (1, 1), (1, 4), (2, 1))),
        (2, 2, "CAP"),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in ((1, 2, "CAP"), (1, 2, "RFS"), (2, 2, "RFS"))),
        pytest.param(2, 1, "online-top", marks=pytest.mark.slow),  # draws of 32
    ],
)
def test_exactly_what_the_local_stream_gives(ray_stream, tiny_store, workers, lag, sampler):
    config = config_with(lag, sampler)
    split = CropStore.open(tiny_store).split("train")
    examples = examples_of(tiny_store, config.sampler.prior)
    expected, statistics, summary = train_on(local_stream(config, split, examples, workers=1))
    got, ray_statistics, ray_summary = train_on(ray_stream(config, workers))
    assert [batch.step for batch in got] == list(range(STEPS))
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other)
    assert ray_summary == summary
    for name, values in statistics.items():
        np.testing.assert_array_equal(ray_statistics[name], values)
    if config.sampler.prior is not None:  # it had its say at once: no permutation of the examples
        assert len(np.unique(np.concatenate([batch.draw.indices for batch in got[:8]]))) < 64
        return
    if config.sampler.strategy == "sequential":
        assert statistics["draw_count"].tolist() == [STEPS * 32 // 64] * 64
        return
    # the scores had their say: examples of the highest were drawn more often after the first epoch
    later = np.concatenate([batch.draw.indices for batch in got[8 + lag + 1 :]])
    assert (later % 7 == 6).mean() > 2 * (later % 7 == 1).mean()


@pytest.mark.timeout(240)
def test_one_stream_serves_one_run_after_the_other(ray_stream, tiny_store):
    """The second begins while batches of the first are under way; the third goes on where the second was saved, but
    has its JPEG files decoded by who gets them."""
    config = config_with(2)
    on_device = replace(config, training=replace(config.training, decode_on_device=True))
    split = CropStore.open(tiny_store).split("train")
    expected, statistics, _ = train_on(local_stream(config, split, examples_of(tiny_store), workers=1))
    files, _, _ = train_on(local_stream(on_device, split, examples_of(tiny_store), workers=1))
    assert bytes(files[0].crops.images[0]).rstrip(b"\0") == split.read_encoded(files[0].draw.indices[:1])[0]
    stream = ray_stream(config, workers=2)
    train_on(stream, stop=5)
    stream.begin(tiny_store, config, examples_of(tiny_store))
    got, _, _ = train_on(stream, stop=11)
    saved = stream.state_dict(10)
    stream.begin(tiny_store, on_device, examples_of(tiny_store), saved)
    for batch in stream.batches(11, STEPS):
        got.append(batch)
        stream.send_scores(batch.step, batch.draw.indices, scores_of(batch.step, batch.draw.indices))
    for one, other in zip(got, expected[:11] + files[11:], strict=True):
        assert_same(one, other)
    for name, values in stream.statistics(STEPS - 1).items():
        np.testing.assert_array_equal(values, statistics[name])


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_fewer_steps_than_workers(ray_stream):
    batches, _, _ = train_on(ray_stream(replace(config_with(0)), workers=3), stop=2)
    assert [batch.step for batch in batches] == [0, 1]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("lag", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_refused_scores_end_the_stream_with_the_reason(ray_stream, lag):
    stream = ray_stream(config_with(lag), workers=2)
    with pytest.raises(Exception, match=r"the score of example \d+ at position 0 is nan: scores must be finite"):  # noqa: PT012
        for batch in stream.batches(0, STEPS):
            scores = scores_of(batch.step, batch.draw.indices)
            if batch.step == 3:
                scores[0] = np.nan
            stream.send_scores(batch.step, batch.draw.indices, scores)
    with pytest.raises(InputError, match="scores must be finite"):
        stream.summary(STEPS - 1)


@pytest.mark.timeout(240)
def test_a_closed_stream_leaves_nobody_behind(ray_local, ray_stream):
    """Not even after training stopped in the middle."""

    def free_cpus(patience=0):
        """Ray gives them back within a second or so, after a failed stream once Python has collected its remains."""
        until = time.monotonic() + patience
        while (cpus := ray_local.available_resources().get("CPU", 0)) < 2 and time.monotonic() < until:
            gc.collect()
            time.sleep(0.1)
        return cpus

    assert free_cpus(patience=30) == 2
    stream = ray_stream(config_with(1))
    batches = stream.batches(0, STEPS)
    next(batches)
    assert free_cpus() < 2
    batches.close()
    stream.close()
    assert free_cpus(patience=30) == 2
    with pytest.raises(ray_local.exceptions.RayActorError):
        stream.summary(0)


# --- one batch as a row ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 0, 1)])
def test_pack_and_unpack(counts):
    rng = np.random.default_rng(0)
    indices = np.array([5, 3, 5])
    crops = Crops(
        indices=indices,
        images=rng.integers(0, 255, (3, 4, 6, 3), dtype=np.uint8),
        objects=Objects.from_lists(
            [rng.random((n, 4)) for n in counts],
            [rng.integers(1, 5, n) for n in counts],
            [rng.random(n) < 0.5 for n in counts],
        ),
        unreadable=np.array([False, True, False]),
    )
    draw = Draw(indices, rng.random(3), rng.random(3), step=17, version=12)
    row = pack(3, 17, draw, crops)
    assert all(len(column) == 1 for column in row.values())
    run, batch = unpack(row, WHOLE_BATCH)
    assert (run, batch.step) == (3, 17)
    assert_same(batch, replace(batch, draw=draw, crops=crops))


# --- the table actor as a plain object -------------------------------------------------------------------------------


async def table_actor(lag, number=1, actor=None, state=None):
    """An actor turned to a run of 64 examples in batches of 8."""
    actor = actor or TableActor()
    run = Assignment(
        number=number,
        store_uri="nowhere",
        sampler=tiny_run("UIS").sampler,
        examples=TrainingExamples(64, np.arange(64)),
        seed=0,
        batch_size=8,
        lag=lag,
        start=0,
        stop=STEPS,
        state=state,
    )
    await actor.begin(run)
    return actor


def test_updates_out_of_order_wait_for_their_turn():
    async def run():
        actor, ordered = await table_actor(lag=2), await table_actor(lag=2)
        draws = [await actor.draw(1, step) for step in (2, 0, 1)]
        waiting = asyncio.create_task(actor.draw(1, 4))
        asked = asyncio.create_task(actor.summary(1, 1))
        await actor.update(1, 1, draws[2].indices, scores_of(1, draws[2].indices))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert not asked.done()
        await actor.update(1, 0, draws[1].indices, scores_of(0, draws[1].indices))
        got = await asyncio.wait_for(waiting, 1)
        for step in (0, 1):
            indices = (await ordered.draw(1, step)).indices
            await ordered.update(1, step, indices, scores_of(step, indices))
        np.testing.assert_array_equal(got.indices, (await ordered.draw(1, 4)).indices)
        assert got.version == 2
        assert await asked == await ordered.summary(1, 1)

    asyncio.run(run())


def test_a_refused_update_wakes_those_who_wait_for_it():
    async def run():
        actor = await table_actor(lag=0)
        draw = await actor.draw(1, 0)
        waiting = asyncio.create_task(actor.draw(1, 1))
        asked = asyncio.create_task(actor.statistics(1, 0))
        await asyncio.sleep(0.01)
        with pytest.raises(InputError, match="scores must be ≥ 0"):
            await actor.update(1, 0, draw.indices, np.full(8, -1.0))
        for task in (waiting, asked):
            with pytest.raises(InputError, match="the stream stopped: the score of example"):
                await asyncio.wait_for(task, 1)
        np.testing.assert_array_equal((await actor.draw(1, 0)).indices, draw.indices)

    asyncio.run(run())


def test_the_next_run_starts_afresh_and_ends_what_was_asked_for_the_one_before():
    async def run():
        actor = await table_actor(lag=0)
        first = await actor.draw(1, 0)
        waiting = asyncio.create_task(actor.draw(1, 1))
        following = asyncio.create_task(actor.assignment(1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await actor.update(1, 0, first.indices, scores_of(0, first.indices))
        second = await asyncio.wait_for(waiting, 1)
        assert (await actor.assignment(0))[0] == 1
        snapshot = await actor.snapshot(1, 0)
        late = asyncio.create_task(actor.draw(1, 2))
        await table_actor(lag=0, number=2, actor=actor)
        assert await asyncio.wait_for(late, 1) is None
        assert (await asyncio.wait_for(following, 1))[:3] == (2, "nowhere", 0)
        await actor.update(1, 1, first.indices, scores_of(1, first.indices))  # late, of the run before: dropped
        np.testing.assert_array_equal((await actor.draw(2, 0)).indices, first.indices)
        # and a run that goes on from a snapshot draws what the first one was about to
        await table_actor(lag=0, number=3, actor=actor, state=snapshot)
        np.testing.assert_array_equal((await actor.draw(3, 1)).indices, second.indices)

    asyncio.run(run())
