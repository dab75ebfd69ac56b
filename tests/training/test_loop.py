"""One run in one process: what it writes, that a seed decides everything, and how it fails."""

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from isod.config.record import flatten
from isod.data.store.split import CropStore
from isod.detector.saved import describe_model
from isod.inference.prediction import Predictor
from isod.training import validation
from isod.training.examples import TrainingExamples
from isod.training.loop import Clock
from isod.training.statistics import RunStatistics
from isod.training.stream import Batch, local_stream
from isod.training.trainer import Trainer, flips, learning_rate
from isod.training.validation import ValidationCrops
from tests.training.tiny_run import UNTIMED, run_here, tiny_run, weights_of

CPU = torch.device("cpu")


def go(config, store, out, workers=1):
    run_here(config, store, out, workers=workers)
    return out


@pytest.fixture(scope="module")
def finished(tiny_store, tmp_path_factory):
    """A run of 40 iterations, validated every 15."""
    return go(tiny_run(), tiny_store, tmp_path_factory.mktemp("run") / "out")


def batch_of(config, split, step=0):
    """The batch of a step, and its stream."""
    stream = local_stream(config, split, TrainingExamples(len(split), split.readable), workers=1)
    for batch in stream.batches(0, config.training.iterations):
        if batch.step == step:
            return batch
        stream.send_scores(batch.step, batch.draw.indices, np.ones(len(batch.draw.indices)))
    raise AssertionError(f"no step {step}")


# --- what a run leaves behind ----------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_grid_ends_with_the_last_iteration(finished):
    table = pd.read_csv(finished / "metrics.csv")
    assert table["iteration"].tolist() == [15, 30, 40]
    assert table["train/loss"].iloc[-1] < 0.8 * table["train/loss"].iloc[0]
    np.testing.assert_allclose(table["train/loss"], table["train/class_loss"] + table["train/box_loss"], rtol=1e-5)
    assert table["mAP"].between(0, 1).all()
    assert table["time/seconds"].is_monotonic_increasing
    assert table["sampler/ess"].between(0, 1, inclusive="neither").all()


def test_files_agree(finished, tiny_store):
    config, split = tiny_run(), CropStore.open(tiny_store).split("train")
    settings = json.loads((finished / "config.json").read_text())
    assert settings.pop("store.contents").startswith("64 train + 16 val crops of 160×48 (0 lost), ")
    assert settings == {"store": tiny_store, **flatten(config)}
    examples = pd.read_parquet(finished / "examples.parquet")
    assert examples["index"].tolist() == list(range(64))
    assert examples["frame_id"].tolist() == split.annotations().frame_ids
    assert examples["draw_count"].sum() == 40 * 8
    assert examples["draw_count"].min() >= 1  # the first epoch
    assert examples["last_step"].between(0, 39).all()
    assert (examples["last_step"] >= 32).any()
    assert (examples["mean_importance"] > 0).all()
    Trainer(config, CropStore.open(tiny_store).meta, CPU).model.load_state_dict(weights_of(finished))
    last = pd.read_csv(finished / "metrics.csv").iloc[-1]
    assert Predictor(finished / "model").confidence == describe_model(finished / "model").threshold == last.F1_threshold


# --- a seed decides everything ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_seed_gives_the_same_run_to_the_last_bit(finished, tiny_store, tmp_path, workers):
    again = go(tiny_run(), tiny_store, tmp_path, workers)
    first, second = (pd.read_csv(folder / "metrics.csv").drop(columns=UNTIMED) for folder in (finished, again))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert (finished / "examples.parquet").read_bytes() == (again / "examples.parquet").read_bytes()
    first, second = (weights_of(folder) for folder in (finished, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_is_another_run(finished, tiny_store, tmp_path):
    other = go(tiny_run(seed=1, iterations=8), tiny_store, tmp_path)
    first, second = (weights_of(folder) for folder in (finished, other))
    assert not all(torch.equal(first[name], second[name]) for name in first)


def test_every_sampler_starts_from_the_same_weights_and_the_same_first_batch(tiny_store):
    store = CropStore.open(tiny_store)
    states = [Trainer(tiny_run(name), store.meta, CPU).model.state_dict() for name in ("baseline", "UIS", "LIS-IR")]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    other = Trainer(tiny_run(seed=1), store.meta, CPU).model.state_dict()
    assert not all(torch.equal(other[name], states[0][name]) for name in other)
    draws = [batch_of(tiny_run(name), store.split("train"), step=7).draw.indices for name in ("baseline", "UIS")]
    np.testing.assert_array_equal(*draws)


# --- mirrored crops --------------------------------------------------------------------------------------------------


def test_flips_come_from_seed_and_step_alone():
    training = tiny_run(batch_size=2000, flip=True).training
    mask = flips(training, 3)
    assert mask.mean() == pytest.approx(0.5, abs=0.05)  # 4.5 standard deviations
    np.testing.assert_array_equal(mask, flips(tiny_run("baseline", batch_size=2000, lr=1.0).training, 3))
    for other in (flips(training, 4), flips(replace(training, seed=1), 3)):
        assert 0.4 < (mask != other).mean() < 0.6


def test_a_flipped_crop_is_the_mirrored_crop(tiny_store):
    """A step that mirrors its crops is the step without, on crops that were mirrored before."""
    store = CropStore.open(tiny_store)
    config = tiny_run(flip=True)
    batch = batch_of(config, store.split("train"))
    mask = flips(config.training, 0)
    assert 0 < mask.sum() < len(mask)
    width = store.meta.crop_size[1]
    images, objects = batch.crops.images.copy(), batch.crops.objects
    boxes = objects.boxes.copy()
    for slot in np.flatnonzero(mask):
        images[slot] = images[slot][:, ::-1]
        n = objects.counts[slot]
        moved = boxes[slot, :n] * [-1, 1, -1, 1] + [width, 0, width, 0]  # x → width − x: left and right change places
        boxes[slot, :n] = moved[:, [2, 1, 0, 3]]
    mirrored = replace(batch.crops, images=images, objects=replace(objects, boxes=boxes))
    result = Trainer(config, store.meta, CPU).step(batch)
    expected = Trainer(tiny_run(), store.meta, CPU).step(Batch(0, batch.draw, mirrored))
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-6)
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)
    plain = Trainer(tiny_run(), store.meta, CPU).step(batch)
    assert not np.allclose(result.scores, plain.scores, rtol=1e-3)


def test_the_cosine_schedule_is_torchs_own_and_ends_at_nothing():
    """torch counts the same steps; past its last one it would rise again, here the rate stays at 0."""
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    config = tiny_run(iterations=40, lr_schedule="cosine", lr_decayed_at=0.75).training
    for step in range(30):
        assert learning_rate(config, step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert [learning_rate(config, step) for step in (30, 39)] == [0.0, 0.0]
    assert learning_rate(tiny_run(iterations=40, lr_schedule="cosine").training, 20) == pytest.approx(config.lr / 2)
    assert learning_rate(tiny_run(iterations=40).training, 39) == config.lr


def test_a_step_uses_the_rate_of_its_number(tiny_store):
    """Adam's first update is ± the learning rate per weight (up to eps): at the half of a cosine, half of it."""
    config = tiny_run(iterations=10, lr_schedule="cosine")
    store = CropStore.open(tiny_store)
    batch = batch_of(config, store.split("train"), step=5)
    trainer = Trainer(config, store.meta, CPU)
    before = trainer.model.head.bias.detach().clone()
    trainer.step(batch)
    moved = (trainer.model.head.bias.detach() - before).abs().max()
    assert moved.item() == pytest.approx(config.training.lr / 2, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("thread", [False, True], ids=["main", "as Ray Tune runs it"])
def test_a_process_that_trains_keeps_its_memory(thread):
    """Three tensors of 32 MB, 40 times over: pages that are new to the process come with the first few only."""
    script = f"""
import resource, threading, torch
from isod.training.process import configure_process
configure_process(2)
def train():
    for number in range(40):
        tensors = [torch.ones(2**23) for _ in range(3)]
        while tensors:
            tensors.pop()
        if number == 9:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
worker = threading.Thread(target=train)
{"worker.start(), worker.join()" if thread else "train()"}
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(printed[0]) < 30
    assert printed[1] == "2"


def test_a_run_that_ends_before_its_sampler_begins_is_told(tiny_store, tmp_path, caplog):
    """64 examples in batches of 8, and a lag of 2: all have scores after step 7, which draw 10 is the first to see."""
    caplog.set_level("INFO", "isod")
    for iterations in (10, 11):
        config = tiny_run(iterations=iterations, validate_every=4)
        run_here(config, tiny_store, tmp_path / str(iterations))
    assert caplog.messages[0] == (
        "note: UIS draws as the baseline does until each of the 64 examples has a score, and 10 iterations of 8 do not "
        "go beyond that: set --iterations well above 10"
    )
    assert sum("draws as the baseline does" in line for line in caplog.messages) == 1
    ess = pd.read_csv(tmp_path / "11" / "metrics.csv", index_col="iteration")["sampler/ess"]
    assert ess.isna().to_dict() == {4: True, 8: False, 11: False}
    assert 0 < ess[11] < 1


def test_waiting_takes_no_processor_time():
    record = RunStatistics(1)
    clock = Clock(record)
    clock.start()
    time.sleep(0.5)
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass
    clock.stop()
    assert record.cpu_seconds >= 0.2
    assert record.seconds - record.cpu_seconds > 0.3
    state = record.state_dict()
    other = RunStatistics(1)
    other.load_state_dict(state)
    assert other.cpu_seconds == record.cpu_seconds
    del state["cpu_seconds"]  # as isod 0.1 wrote it: not known, rather than too little
    other.load_state_dict(state)
    assert math.isnan(other.cpu_seconds)


def test_compiling_is_not_training_time(tiny_store, tmp_path, monkeypatch):
    def slow(model, **options):
        calls = itertools.count()
        return lambda images: (time.sleep(3) if not next(calls) else None, model(images))[1]

    monkeypatch.setattr("torch.compile", slow)
    config = tiny_run(iterations=4, validate_every=4, compiled=True)
    run_here(config, tiny_store, tmp_path / "run")
    assert 0 < pd.read_csv(tmp_path / "run/metrics.csv")["time/seconds"].iloc[0] < 3


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_and_examples_and_leaves_the_weights(tiny_store):
    store = CropStore.open(tiny_store)
    batch = batch_of(tiny_run(), store.split("train"), step=5)
    trainer = Trainer(tiny_run(), store.meta, CPU)
    list(trainer.model.parameters())[-1].data.fill_(float("nan"))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with pytest.raises(FloatingPointError) as failure:
        trainer.step(batch)
    assert str(failure.value) == f"loss is nan at step 5, examples {batch.draw.indices.tolist()}"
    for parameter, old in zip(trainer.model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old, rtol=0, atol=0, equal_nan=True)


def test_a_run_that_diverges_keeps_what_it_had_written(tiny_store, tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step \d+, examples \["):
        go(tiny_run(lr=1e30, validate_every=1), tiny_store, tmp_path)
    assert pd.read_csv(tmp_path / "metrics.csv")["iteration"].iloc[0] == 1


# --- the stream and the validation crops -----------------------------------------------------------------------------


def test_reading_ahead_ends_where_scores_are_owed(tiny_store):
    config, split = tiny_run(lag=2), CropStore.open(tiny_store).split("train")
    stream = local_stream(config, split, TrainingExamples(len(split), split.readable), workers=1)
    batches = stream.batches(0, 40)
    assert [next(batches).step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="step 3 waits for scores that were not sent"):
        next(batches)


@pytest.mark.parametrize(("limit", "reads"), [(2**30, 2), (0, 4), (10 * 48 * 160 * 3, 4)])
def test_validation_crops_are_the_same_with_and_without_the_cache(tiny_store, monkeypatch, limit, reads):
    """16 crops in batches of 8, gone through twice; the last limit is passed by the second batch."""
    monkeypatch.setattr(validation, "CACHE_BYTES", limit)
    split = CropStore.open(tiny_store).split("val")
    read, calls = split.read, []
    monkeypatch.setattr(split, "read", lambda indices, **how: calls.append(1) or read(indices, **how))
    crops = ValidationCrops(split, 8, threads=2)
    for _ in range(2):
        seen = list(crops)
        np.testing.assert_array_equal(np.concatenate([item.indices for item in seen]), np.arange(16))
        np.testing.assert_array_equal(np.concatenate([item.images for item in seen]), read(range(16)).images)
    assert len(calls) == reads


def test_where_crops_are_decoded_changes_nothing_on_a_cpu(tiny_store, tmp_path):
    for where in (False, True):
        config = tiny_run(decode_on_device=where, iterations=20, validate_every=10)
        run_here(config, tiny_store, tmp_path / str(where))
    first, second = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("False", "True"))
    pd.testing.assert_frame_equal(first.drop(columns=UNTIMED), second.drop(columns=UNTIMED), check_exact=True)
    weights, others = (weights_of(tmp_path / name) for name in ("False", "True"))
    for name, values in weights.items():
        assert torch.equal(values, others[name]), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_is_the_plain_one_but_for_rounding(tiny_store, tmp_path):
    losses = {}
    for compiled in (False, True):
        out = tmp_path / f"compiled-{compiled}"
        run_here(tiny_run(compiled=compiled, iterations=12, validate_every=4), tiny_store, out)  # fmt: skip
        losses[compiled] = pd.read_csv(out / "metrics.csv")[["train/loss", "sampler/ess"]].to_numpy()
    np.testing.assert_allclose(losses[True], losses[False], rtol=5e-3)
    assert (losses[True] != losses[False]).any()  # it was compiled
