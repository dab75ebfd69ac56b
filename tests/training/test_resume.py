"""A run that was stopped and went on is the run that was not, to the last bit."""

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from unittest import mock

import pandas as pd
import pytest
import torch

from isod.config.record import changes
from isod.config.settings import DetectorConfig, HoldoutConfig
from isod.data.store.split import CropStore
from isod.detector.thesis.model import ThesisDetector
from isod.errors import InputError
from isod.messages import messages_to
from isod.sampling.catalogue import HISTORIES, STRATEGIES
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.signals import ctrl_c_waits, sigterm_as_ctrl_c
from isod.training import holdout, loop, stream
from isod.training import run as run_module
from isod.training.checkpoint import Checkpoints, save_whole
from isod.training.examples import TrainingExamples
from isod.training.folder import RunFolder
from isod.training.loop import train
from isod.training.run import MetricsTable
from isod.training.stream import LocalStream, local_stream
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from tests.system.signals import handlers
from tests.training.tiny_run import CPU, UNTIMED, Reports, limited, run_here, tiny_run, weights_of

HOLDOUT = HoldoutConfig(share=0.25, epochs=1, batch_size=8, detector=DetectorConfig(width=0.125, blocks=(1, 1, 1, 1)))


def go(config, store, out, listen=lambda iteration: None, **options):
    """A run with a checkpoint after every validation."""
    return run_here(config, store, out, Reports(listen), checkpoint_share=1.0, **options)


def interrupt_at(iteration):
    """Press Ctrl-C when this validation is reported."""

    def listen(reported):
        if reported == iteration:
            raise KeyboardInterrupt

    return listen


@pytest.fixture
def said():
    """The messages of a run."""
    lines = []
    with messages_to(lines.append):
        yield lines


def assert_same_results(first, second):
    one, other = (pd.read_csv(folder / "metrics.csv").drop(columns=UNTIMED) for folder in (first, second))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    one, other = (pd.read_parquet(folder / "examples.parquet") for folder in (first, second))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    one, other = (weights_of(folder) for folder in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_network_draws_at_random_is_the_same_after_a_resume(tiny_store, tmp_path):
    """Dropout, in a detector of another package; nor does it move the random numbers of who calls."""
    config = tiny_run("LIS", iterations=20, validate_every=7)
    config = replace(config, detector=DetectorConfig(name="tests.detector.outside:build_with_dropout"))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    whole = go(config, tiny_store, tmp_path / "whole")
    assert torch.equal(torch.rand(2), expected)
    halves = tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, halves, listen=interrupt_at(7))
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)


def samplers_to_resume():
    """One sampler per strategy, one per history that keeps a second number, and one of another package."""
    named = {sampler.strategy: sampler for sampler in reversed(SAMPLERS.values())}
    for strategy in STRATEGIES:
        yield named.get(strategy) or SamplerConfig(name=strategy, heuristic="loss", strategy=strategy)
    for history, row in HISTORIES.items():
        if row.keeps_second_number:
            yield next(sampler for sampler in SAMPLERS.values() if sampler.history == history)
    for name in ("CAP", "progress"):
        yield replace(SAMPLERS[name], window=3)
    for name in ("class-max", "online-proportional", "online-percentile", "online-RHO", "online-predicted"):
        yield SAMPLERS[name]
    outside = "tests.sampling.outside"
    yield SamplerConfig(name="outside", heuristic=f"{outside}:squared_loss", strategy=f"{outside}:Highest")


@pytest.mark.parametrize("sampler", list(samplers_to_resume()), ids=lambda sampler: sampler.name)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(tiny_store, tmp_path, sampler):
    """Stopped in the first epoch (7 of 8 steps) and again behind it (14), between two validations of ten."""
    config = replace(tiny_run(iterations=20, validate_every=7), sampler=sampler, holdout=HOLDOUT)
    whole = go(config, tiny_store, tmp_path / "whole")
    halves = tmp_path / "halves"
    for number, iteration in enumerate((7, 14)):
        with pytest.raises(KeyboardInterrupt):
            go(config, tiny_store, halves, listen=interrupt_at(iteration), resume=number > 0)
        assert not RunFolder(halves).finished
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)
    assert not list(halves.glob("checkpoint*"))


@pytest.fixture
def early(monkeypatch):
    """Fetches a step early on the CPU too. What happened, in order: ("fetched", step) and ("scored", step)."""
    events = []

    class Watched(LocalStream):
        def batches(self, start, stop):
            for batch in super().batches(start, stop):
                events.append(("fetched", batch.step))
                yield batch

        def send_scores(self, step, indices, scores, observed=None):
            events.append(("scored", step))
            super().send_scores(step, indices, scores, observed)

    monkeypatch.setattr(stream, "LocalStream", Watched)
    monkeypatch.setattr(loop, "fetches_early", lambda device, lag: lag >= 1)
    return events


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("name", ["UIS", "UIS-RB", "LIS-RHO"])
def test_fetching_a_step_early_as_on_a_gpu_changes_nothing(tiny_store, tmp_path, monkeypatch, early, name, lag):
    """Nor does an interruption with a batch at hand that was fetched early."""
    config = replace(tiny_run(name, iterations=20, validate_every=7, lag=lag), holdout=HOLDOUT)
    ahead, halves = tmp_path / "early", tmp_path / "halves"
    go(config, tiny_store, ahead)
    for step in range(1, 20):
        assert early.index(("fetched", step)) < early.index(("scored", step - 1))
    with pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, halves, listen=interrupt_at(14))
    go(config, tiny_store, halves, resume=True)
    monkeypatch.undo()
    whole = go(config, tiny_store, tmp_path / "whole")
    assert_same_results(whole, ahead)
    assert_same_results(whole, halves)


def test_an_interruption_in_the_middle_of_a_step_keeps_the_last_whole_checkpoint(tiny_store, tmp_path, early):
    """The forward pass has then moved the running statistics of the normalisation, and nothing else has moved."""

    class Interrupting(stream.LocalStream):
        def batches(self, start, stop):
            for batch in super().batches(start, stop):
                if batch.step == 16 and start == 0:
                    raise KeyboardInterrupt
                yield batch

    config = tiny_run(iterations=20, validate_every=7)
    whole, halves = go(config, tiny_store, tmp_path / "whole"), tmp_path / "halves"
    with mock.patch.object(stream, "LocalStream", Interrupting), pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, halves)
    assert max(path.name for path in halves.glob("checkpoint-*")) == "checkpoint-000000014.pt"
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)


@pytest.mark.parametrize(
    ("number", "ctrl_c"),
    [
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_IGN),  # what `&` in a script leaves of Ctrl-C
    ],
)
def test_ctrl_c_comes_when_the_step_is_done(tiny_store, tmp_path, number, ctrl_c):
    """A real signal in the middle of step 9; the checkpoint is the one of step 10's beginning, and goes on as ever."""
    config = tiny_run(iterations=20, validate_every=7)
    whole, halves = go(config, tiny_store, tmp_path / "whole"), tmp_path / "halves"
    forward = ThesisDetector.loss

    def pressed(self, *arguments, **options):
        result = forward(self, *arguments, **options)
        if self.training and next(steps) == 9:
            signal.raise_signal(number)
        return result

    steps = itertools.count()
    with (
        mock.patch.object(ThesisDetector, "loss", pressed),
        handlers(ctrl_c),
        sigterm_as_ctrl_c() as came,
        pytest.raises(KeyboardInterrupt),
    ):
        go(config, tiny_store, halves)
    assert came == [number] * (number == signal.SIGTERM)
    assert next(steps) == 10
    assert max(path.name for path in halves.glob("checkpoint-*")) == "checkpoint-000000010.pt"
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)


@pytest.mark.parametrize("iteration", [14, 20])
def test_a_ctrl_c_in_the_middle_of_a_validation_costs_no_point_of_the_curve(tiny_store, tmp_path, iteration):
    """14 is between two steps, 20 the end."""
    config = tiny_run(iterations=20, validate_every=7)
    whole, halves = go(config, tiny_store, tmp_path / "whole"), tmp_path / "halves"
    validate, validations = Trainer.validate, itertools.count(1)

    def pressed(self, validation):
        if 7 * next(validations) >= iteration:
            signal.raise_signal(signal.SIGINT)
        return validate(self, validation)

    with mock.patch.object(Trainer, "validate", pressed), pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, halves)
    assert list(pd.read_csv(halves / "metrics.csv")["iteration"]) == list(range(7, iteration, 7))
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)


def test_a_ctrl_c_while_a_checkpoint_is_written_waits_for_it(tiny_store, tmp_path):
    save, written = torch.save, []

    def pressed(state, file):
        signal.raise_signal(signal.SIGINT)
        save(state, file)
        written.append(state["iteration"])

    with mock.patch.object(torch, "save", pressed), pytest.raises(KeyboardInterrupt):
        go(tiny_run(iterations=20, validate_every=7), tiny_store, tmp_path / "run")
    assert written == [7, 7]  # the one under way, and the one that every Ctrl-C leaves


def test_seconds_of_training_before_a_ctrl_c_count(tiny_store, tmp_path):
    """Stopped at step 9, between two validations; each step takes a tenth of a second and more."""
    config, out = tiny_run(iterations=14, validate_every=7), tmp_path / "run"
    forward, steps = ThesisDetector.loss, itertools.count()

    def slow(self, *arguments, **options):
        if self.training:
            time.sleep(0.1)
            if next(steps) == 9:
                signal.raise_signal(signal.SIGINT)
        return forward(self, *arguments, **options)

    with mock.patch.object(ThesisDetector, "loss", slow):
        with pytest.raises(KeyboardInterrupt):
            go(config, tiny_store, out)
        go(config, tiny_store, out, resume=True)
    assert pd.read_csv(out / "metrics.csv")["time/seconds"].iloc[-1] > 1.4


def test_a_second_ctrl_c_does_not_wait():
    def again():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still here")

    with pytest.raises(KeyboardInterrupt), ctrl_c_waits():
        again()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_a_gpu_with_a_lag_fetches_early():
    assert loop.fetches_early(torch.device("cuda"), 1)
    assert not loop.fetches_early(torch.device("cuda"), 0)
    assert not loop.fetches_early(CPU, 4)


THESIS = ["detector.width=0.125"]


@pytest.mark.parametrize(
    ("sampler", "detector"),
    [
        ("UIS", THESIS),
        pytest.param("RFS", THESIS, marks=pytest.mark.slow),
        pytest.param("CAP", [*THESIS, "sampler.window=4"], marks=pytest.mark.slow),
        pytest.param("UIS", ["detector.name=fcos", "detector.pyramid_channels=64"], marks=pytest.mark.slow, id="fcos"),
        pytest.param(
            "UIS",
            ["detector.name=faster_rcnn", "detector.pyramid_channels=32", "detector.proposals=16"],
            marks=pytest.mark.slow,
            id="faster_rcnn",
        ),
        pytest.param(
            "UIS",
            ["detector.name=detr", "detector.pyramid_channels=32", "resources.checkpoint_share=1"],
            marks=pytest.mark.slow,
            id="detr",
        ),
    ],
)
def test_a_killed_process_goes_on_as_if_nothing_had_been(tiny_store, tmp_path, sampler, detector):
    """kill -9 of `isod train` with steps behind its last checkpoint."""
    command = [sys.executable, "-m", "isod", "train", tiny_store, "--sampler", sampler, "--preset", "demo",
               "--batch-size", "8", "--iterations", "60", "--validate-every", "6", "--set", *detector]  # fmt: skip
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True, timeout=300)
    process = subprocess.Popen([*command, "--out", str(halves)], stdout=subprocess.DEVNULL)
    while not list(halves.glob("checkpoint-*.pt")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not RunFolder(halves).finished
    done = subprocess.run(
        [*command, "--out", str(halves), "--resume"], check=True, capture_output=True, text=True, timeout=300
    )
    assert "resuming after iteration" in done.stdout
    assert_same_results(whole, halves)


def test_ctrl_c_writes_a_checkpoint_and_ends_cleanly(tiny_store, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "isod", "train", tiny_store, "--preset", "demo", "--width", "0.125",
               "--batch-size", "8", "--iterations", "100000", "--validate-every", "20", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "isod: stopped\n")
    assert list(out.glob("checkpoint-*.pt"))


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(tiny_store, tmp_path):
    """A run of 21 iterations that was stopped at 14: checkpoints of 7 and 14."""
    config = tiny_run(iterations=21, validate_every=7)
    with pytest.raises(KeyboardInterrupt):
        go(config, tiny_store, tmp_path / "run", listen=interrupt_at(14))
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        "checkpoint-000000007.pt",
        "checkpoint-000000014.pt",
    ]
    return config, tmp_path / "run"


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_serves(tiny_store, tmp_path, interrupted, said):
    config, out = interrupted
    newest = out / "checkpoint-000000014.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    go(config, tiny_store, out, resume=True)
    assert f"{newest} is damaged and ignored" in said[0]
    assert said[1] == "resuming after iteration 7"
    assert_same_results(go(config, tiny_store, tmp_path / "whole"), out)


def short_of_memory(*args, **kwargs):
    torch.empty(2**60)  # what torch says when there is no memory


def short_of_pythons(*args, **kwargs):
    raise MemoryError


@pytest.mark.parametrize("load", [short_of_memory, short_of_pythons])
def test_checkpoints_stay_where_memory_is_short(interrupted, tiny_store, monkeypatch, load):
    config, out = interrupted
    before = sorted(out.glob("checkpoint-*"))
    with monkeypatch.context() as short:
        short.setattr(torch, "load", load)
        with pytest.raises(InputError, match=r"not enough memory to read .*checkpoint-000000014.pt: free some, and"):
            go(config, tiny_store, out, resume=True)
    assert sorted(out.glob("checkpoint-*")) == before


def test_damaged_checkpoints_take_no_place_among_those_that_are_kept(tmp_path, said):
    """Both newest ones are: the run begins anew, and what it then writes stays."""
    checkpoints = Checkpoints(tmp_path, {})
    for iteration in (1000, 2000):
        checkpoints.save(iteration, 1.0, {"record": {"seconds": 1.0}})
        (tmp_path / f"checkpoint-{iteration:09d}.pt").write_bytes(b"PK")
    assert checkpoints.load() is None
    assert len(said) == 2
    for iteration in (100, 200, 300):
        checkpoints.save(iteration, 1.0, {"record": {"seconds": 1.0}})
    assert checkpoints.load()["iteration"] == 300
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint-000000200.pt", "checkpoint-000000300.pt"]
    (tmp_path / "checkpoint-000000400.part").touch()  # as a kill leaves it
    checkpoints.clear()
    assert not list(tmp_path.iterdir())


def test_a_pipe_that_is_closed_stops_a_run_as_a_ctrl_c_does(tiny_store, tmp_path):
    """`isod train … | head -1`: the checkpoint is of the validation whose line could not be written."""
    config = tiny_run(iterations=20, validate_every=7)
    whole, halves = go(config, tiny_store, tmp_path / "whole"), tmp_path / "halves"

    def listen(iteration):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        go(config, tiny_store, halves, listen=listen)
    assert [path.name for path in halves.glob("checkpoint-*")] == ["checkpoint-000000007.pt"]
    go(config, tiny_store, halves, resume=True)
    assert_same_results(whole, halves)


def test_rows_that_could_not_be_written_come_with_the_next(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv")
    (tmp_path / "metrics.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        table.append({"mAP": 0.25}, 10)
    assert not list(tmp_path.iterdir())
    table.append({"mAP": 0.5}, 20)
    assert MetricsTable(tmp_path / "metrics.csv").history() == [(10, {"mAP": 0.25}), (20, {"mAP": 0.5})]


def test_a_run_outlives_rows_that_cannot_be_written(tiny_store, tmp_path, said):
    config = tiny_run(iterations=20, validate_every=7)
    whole = go(config, tiny_store, tmp_path / "whole")
    write = MetricsTable.write

    def full(self):
        if len(self.rows) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self)

    with mock.patch.object(MetricsTable, "write", full):
        go(config, tiny_store, tmp_path / "run")
    assert said[0] == (
        "metrics of iteration 7 not written (No space left on device): they come with the next; the run continues"
    )
    assert_same_results(whole, tmp_path / "run")


def test_a_run_does_not_go_on_with_other_settings(tiny_store, interrupted):
    config, out = interrupted
    other = replace(config, training=replace(config.training, lr=0.5))
    with pytest.raises(InputError, match=r"config.json: training.lr was 0.002 and is 0.5"):
        go(other, tiny_store, out, resume=True)
    checkpoints = Checkpoints(out, {"training.lr": 0.5})
    with pytest.raises(
        InputError, match=r"checkpoint-000000014.pt is of a run with other settings \(.*training.lr was 0.002"
    ):
        checkpoints.load()


def test_resume_wants_a_run_and_a_fresh_start_wants_none(tiny_store, tmp_path, interrupted, said):
    config, out = interrupted
    with pytest.raises(InputError, match="--resume needs a run in --out, and there is none"):
        go(config, tiny_store, tmp_path / "empty", resume=True)
    with pytest.raises(InputError, match="--out must be a folder without an earlier run, unless you --resume it"):
        go(config, tiny_store, out)
    go(config, tiny_store, out, resume=True)
    go(config, tiny_store, out, resume=True)
    assert said[-1] == f"the run in {out} has finished"


def test_a_checkpoint_holds_no_code(interrupted):
    _, out = interrupted
    state = torch.load(out / "checkpoint-000000014.pt", weights_only=True)
    assert {"model", "optimizer", "table", "record", "settings", "iteration"} <= state.keys()
    assert state["table"]["applied"] == state["iteration"] == 14
    assert len(state["table"]["draws"]) == 3  # a lag of 2


def test_checkpoints_take_no_more_than_their_share(tmp_path):
    """With 1 %, one that took c seconds is followed by none within 100·c seconds of training."""
    checkpoints = Checkpoints(tmp_path, {}, share=0.01)
    assert checkpoints.due(0.0)
    checkpoints.save(1, 5.0, {"big": torch.zeros(2_000_000)})
    assert checkpoints.cost > 0
    assert not checkpoints.due(5.0 + 99 * checkpoints.cost)
    assert checkpoints.due(5.0 + 101 * checkpoints.cost)


@pytest.mark.parametrize("numbers", [1, 1_000_000])
def test_a_full_disk_keeps_the_earlier_checkpoints_and_the_run(tmp_path, numbers, said):
    """Whether it is found full at the end or, as a large checkpoint finds it, in the middle."""
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, 1.0, {"record": {"seconds": 1.0}})
    (tmp_path / "checkpoint-000000002.part").symlink_to("/dev/full")  # every write to it: no space left
    checkpoints.save(2, 2.0, {"record": {"seconds": 2.0}, "model": torch.zeros(numbers)})
    assert said == ["checkpoint at iteration 2 not written (No space left on device); the run continues"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000001.pt"]
    assert Checkpoints(tmp_path, {}).load()["iteration"] == 1


def test_a_ctrl_c_in_the_middle_of_writing_stays_one(tmp_path):
    """The main thread waits until a pipe takes more; torch.save makes a RuntimeError of what ends its writing."""
    path = tmp_path / "model.pt"
    os.mkfifo(path.with_suffix(".part"))

    def press():
        with path.with_suffix(".part").open("rb") as pipe:
            pipe.read(1000)
            os.kill(os.getpid(), signal.SIGINT)
            pipe.read()

    reader = threading.Thread(target=press)
    reader.start()
    with pytest.raises(KeyboardInterrupt):
        save_whole({"model": torch.zeros(1_000_000)}, path)
    reader.join(60)
    assert not list(tmp_path.iterdir())


def test_a_setting_that_is_newer_than_a_checkpoint_was_at_its_default():
    """Of JSON's values, and of MLflow's texts."""
    old, now = {"training.lr": 0.1}, {"training.lr": 0.1, "training.compiled": False}
    assert changes(old, now) == ""
    assert changes({"training.lr": "0.1"}, {name: str(value) for name, value in now.items()}) == ""
    assert changes(old, now | {"training.compiled": True}) == "training.compiled was False and is True"
    assert changes(now, old) == "training.compiled was False and is None"
    assert changes(old, {"training.lr": 0.2}) == "training.lr was 0.1 and is 0.2"
    small = {"training.lr": 0.1, "detector.pyramid_channels": 64, "holdout.detector.proposals": 9}
    assert changes(old, small) == ""  # the thesis's detector, which was the only one, reads neither
    assert changes(small, small | {"detector.pyramid_channels": 96}) != ""


def test_a_store_made_anew_in_the_place_of_another_is_noticed(tiny_store, tmp_path):
    """And a run of a version that did not record what its store held is gone on with."""
    config, out = tiny_run(iterations=14, validate_every=7), tmp_path / "run"
    store = shutil.copytree(tiny_store, tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        go(config, str(store), out, listen=interrupt_at(7))
    meta = CropStore.open(store).meta
    assert meta.contents.startswith("64 train + 16 val crops of 160×48 (0 lost), ")
    more = {**meta.counts["train"], "Vehicle": {**meta.counts["train"]["Vehicle"], "small": 10_000}}
    (store / "store.json").write_text(replace(meta, counts={**meta.counts, "train": more}).to_json())
    with pytest.raises(
        InputError, match=r"needs the settings .*: store\.contents was 64 train .* objects, .* and is 64"
    ):
        go(config, str(store), out, resume=True)
    (store / "store.json").write_text(meta.to_json())
    settings = json.loads((out / "config.json").read_text())
    del settings["store.contents"]
    (out / "config.json").write_text(json.dumps(settings))
    go(config, str(store), out, resume=True)
    assert RunFolder(out).finished


# --- out of memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "advice"), [(3, "2 fit: set --batch-size 2"), (0, "not even one fits")])
def test_out_of_memory_says_which_batch_would_fit(tiny_store, room, advice):
    """A device with room for so many crops: more raise what CUDA raises."""

    small_device = limited(lambda images, training: len(images) <= room)
    store, config = CropStore.open(tiny_store), tiny_run()
    split = store.split("train")
    stream = local_stream(config, split, TrainingExamples(len(split), split.readable), workers=1)
    with pytest.raises(InputError, match=rf"out of memory at step 0 with a batch of 8 crops .*; {advice}"):
        train(small_device(config, store.meta, CPU), stream, ValidationCrops(store.split("val"), 8), lambda *row: None)


# A device that has memory for a step, and none for a pass in evaluation mode.
FullInEvaluation = limited(lambda images, training: training)


class FullFromTheStart(Trainer):
    """On a device that other runs have filled."""

    def __init__(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_network_that_does_not_fit_is_told(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "Trainer", FullFromTheStart)
    with pytest.raises(
        InputError, match=r"^out of memory with the network alone \(CUDA out of memory\); free memory on"
    ):
        go(tiny_run(), tiny_store, tmp_path / "run")


def test_out_of_memory_in_a_validation_loses_no_step(tiny_store, tmp_path, monkeypatch):
    """A sentence and a checkpoint: the resumed run begins with that validation, and ends as an undisturbed one."""
    config = tiny_run(iterations=14, validate_every=7)
    whole, halves = go(config, tiny_store, tmp_path / "whole"), tmp_path / "halves"
    with monkeypatch.context() as full:
        full.setattr(run_module, "Trainer", FullInEvaluation)
        with pytest.raises(InputError, match=r"out of memory in the validation after iteration 7, 8 crops at a time "
                                             r"\(CUDA out of memory\); free memory on the device"):  # fmt: skip
            go(config, tiny_store, halves)
    heard = []
    go(config, tiny_store, halves, resume=True, listen=heard.append)
    assert heard == [7, 14]
    assert_same_results(whole, halves)


def test_a_hold_out_model_that_diverges_is_told_apart_from_the_run(tiny_store, tmp_path):
    config = tiny_run("LIS-RHO", lr=1e30)
    where = r"^in the training of the hold-out model: loss is (nan|inf) at step \d+, examples \["
    with pytest.raises(FloatingPointError, match=where):
        go(replace(config, holdout=HOLDOUT), tiny_store, tmp_path / "run")


def test_out_of_memory_of_the_hold_out_model_is_said(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setattr(holdout, "Trainer", FullInEvaluation)
    config = replace(tiny_run("LIS-RHO"), holdout=HOLDOUT)
    with pytest.raises(InputError, match=r"out of memory while the hold-out model scored .*, 8 crops at a time \(CUDA"):
        go(config, tiny_store, tmp_path / "run")
