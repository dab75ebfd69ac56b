"""What only a CUDA device can show; run with ``pytest -m gpu``."""

from __future__ import annotations

import glob
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.harness import ROOT, environment
from isod.config.settings import DetectorConfig, ResourceConfig, RunConfig, TrainingConfig
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS
from isod.training import decode, loop
from isod.training.folder import RunFolder
from isod.training.run import Run
from isod.training.trainer import Trainer, to_device
from tests.system.faults.conftest import until
from tests.training.tiny_run import Reports

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CONFIG = RunConfig(
    sampler=SAMPLERS["UIS"],
    detector=DetectorConfig(width=0.25, blocks=(1, 1, 1, 1)),
    training=TrainingConfig(iterations=30, batch_size=16, validate_every=10, lag=2, flip=True),
)
CONTEXT = 200 * 2**20  # bytes: less than what a process takes of the GPU by merely using it


def train_on_gpu(config: RunConfig, store: str, out: Path) -> None:
    resources = ResourceConfig(gpus_per_trial=1.0)
    device = torch.device("cuda")
    Run(config=config, store=CropStore.open(store), folder=RunFolder(out), device=device, resources=resources).start(
        Reports()
    )


def run(store: str, out: Path, **training: object) -> None:
    """A few steps on the GPU."""
    settings = {"iterations": 3, "validate_every": 3} | training
    config = replace(CONFIG, training=replace(CONFIG.training, **settings))
    train_on_gpu(config, store, out)


def test_a_run_on_cuda_learns_and_writes_its_files(tiny_store: str, tmp_path: Path):
    train_on_gpu(CONFIG, tiny_store, tmp_path / "run")
    losses = pd.read_csv(tmp_path / "run" / "metrics.csv")["train/loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert pd.read_parquet(tmp_path / "run" / "examples.parquet")["draw_count"].sum() == 30 * 16


def test_copies_beside_the_computing_change_nothing(tiny_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy that was not waited for, or whose memory went to another tensor, would change the losses."""
    kept = {}
    for early in (True, False):
        monkeypatch.setattr(loop, "fetches_early", lambda device, lag, early=early: early)
        run(tiny_store, tmp_path / str(early), iterations=40, validate_every=1)
        kept[early] = pd.read_csv(tmp_path / str(early) / "metrics.csv")["train/loss"]
    np.testing.assert_allclose(kept[True][:5], kept[False][:5], rtol=2e-2)
    np.testing.assert_allclose(kept[True], kept[False], rtol=0.3)  # rounding of atomics grows from step to step


def test_the_forward_pass_is_bfloat16_and_the_scores_are_those_of_the_cpu_to_its_precision(tiny_store: str):
    store = CropStore.open(tiny_store)
    crops = store.split("train").read(np.arange(8))
    cuda, cpu = (Trainer(CONFIG, store.meta, torch.device(name)) for name in ("cuda", "cpu"))
    images = to_device(crops, store.meta.crop_size, cuda.device).images
    assert images.is_contiguous(memory_format=torch.channels_last)
    with cuda._autocast():
        assert cuda.model(images)[0].dtype == torch.bfloat16
    np.testing.assert_allclose(cuda.score(crops), cpu.score(crops), rtol=0.05, atol=0.02)


def test_the_gpu_decodes_as_the_host_does_but_for_rounding(tiny_store: str, monkeypatch: pytest.MonkeyPatch):
    """Its decoder enlarges chroma another way, and where a file is bad the host decodes the batch."""
    store = CropStore.open(tiny_store)
    split, cuda = store.split("train"), torch.device("cuda")
    expected = split.read(np.arange(16)).images.astype(int)
    crops = split.read(np.arange(16), decode=False)
    with monkeypatch.context() as without:
        without.delattr(decode, "on_host")
        images, _, unreadable = to_device(crops, store.meta.crop_size, cuda)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not unreadable.any()
    assert np.abs(images.permute(0, 2, 3, 1).cpu().numpy() - expected).mean() < 2
    crops.images[3, 100:] = 0
    images, _, unreadable = to_device(crops, store.meta.crop_size, cuda)
    assert np.flatnonzero(unreadable).tolist() == [3]
    expected[3] = 0
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).cpu().numpy(), expected)


def test_decoding_beside_the_computing_changes_little(tiny_store: str, tmp_path: Path):
    """Images that were not waited for, or whose memory went to another tensor, would change the losses."""
    kept = {}
    for on_device in (True, False):
        out = tmp_path / str(on_device)
        run(tiny_store, out, iterations=40, validate_every=1, decode_on_device=on_device)
        kept[on_device] = pd.read_csv(out / "metrics.csv")["train/loss"]
    np.testing.assert_allclose(kept[True][:5], kept[False][:5], rtol=5e-2)
    np.testing.assert_allclose(kept[True], kept[False], rtol=0.3)


@pytest.fixture(scope="module")
def large_crops(ray_local, demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 64 crops of 640×192: beside their activations what compiling takes (the L2 cache) is little."""
    from isod.data.prepare.job import prepare_demo

    store = str(tmp_path_factory.mktemp("large") / "store")
    prepare_demo(demo_root, store, resize=(640, 192))
    return store


@pytest.mark.parametrize("compiled", [False, True])
def test_out_of_memory_names_a_batch_that_then_trains(large_crops: str, tmp_path: Path, compiled: bool):
    """The real error of a real allocator that may have only so much; a batch of the size it names then runs."""
    settings = {"compiled": compiled}
    needs = {}
    for size in (4, 64):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run(large_crops, tmp_path / f"size-{size}", batch_size=size, **settings)
        needs[size] = torch.cuda.max_memory_allocated()  # reserved may be far more than what would do
    assert needs[64] > 2 * needs[4]
    torch.cuda.empty_cache()
    room = (needs[4] + needs[64]) // 2
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(InputError, match=r"at step 0 with a batch of 64 .* fit: set --batch-size") as refused:
            run(large_crops, tmp_path / "large", batch_size=64, **settings)
        fits = int(str(refused.value).rpartition(" ")[2])
        assert 4 <= fits < 64
        torch.cuda.empty_cache()
        run(large_crops, tmp_path / "fits", batch_size=fits, **settings)
        assert (tmp_path / "fits" / "examples.parquet").exists()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_ctrl_c_gives_the_gpu_memory_back(tiny_store: str, tmp_path: Path):
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "isod", "train", tiny_store, "--preset", "demo", "--device", "cuda",
               "--iterations", "100000", "--validate-every", "20", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert before - torch.cuda.mem_get_info()[0] > CONTEXT
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "isod: stopped\n")
    assert list(out.glob("checkpoint-*.pt"))
    until(lambda: given_back(before), 10)  # a process that has ended takes a moment


def test_trials_share_the_gpu_and_ctrl_c_leaves_nothing_on_it(tiny_store: str, tmp_path: Path):
    """Two runs of a sweep with half a GPU each, at the same time."""
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    out = tmp_path / "out"
    command = [sys.executable, "sweeps/thesis_grid.py", "--store", tiny_store, "--preset", "demo", "--samplers",
               "baseline", "UIS", "--seeds", "1", "--iterations", "100000", "--validate-every", "20",
               "--gpus-per-trial", "0.5", "--out", str(out)]  # fmt: skip
    with (tmp_path / "log").open("w+") as log:
        sweep = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        folders = [out / "runs" / "*" / f"{name}-seed0" for name in ("baseline", "UIS")]
        while not all(glob.glob(str(folder / "metrics.csv")) for folder in folders):
            assert sweep.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        assert before - torch.cuda.mem_get_info()[0] > 2 * CONTEXT
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(120) == 2  # no run has finished, so there is nothing to compare
        assert "2 runs were not finished" in (tmp_path / "log").read_text()
    for folder in folders:
        assert glob.glob(str(folder / "checkpoint-*.pt"))
    until(lambda: given_back(before), 10)  # a process that has ended takes a moment


def given_back(before: int) -> bool:
    """Whether no process but this one holds GPU memory any more."""
    return before - torch.cuda.mem_get_info()[0] < 16 * 2**20
