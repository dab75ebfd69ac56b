"""The lock of an output folder, held by real processes."""

import os
import signal
import subprocess
import sys
from unittest import mock

import pytest

from isod.cli.main import main
from isod.errors import InputError
from isod.files import LOCK_FILE, folder_lock
from tests.training.tiny_run import Reports, run_here, tiny_run

HOLDER = """
import sys, time
from pathlib import Path
from isod.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of ``tmp_path``."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_free_when_its_process_dies(tmp_path, holder):
    with pytest.raises(InputError, match=rf"^process {holder.pid} on .* is writing to .*: wait until it"):
        folder_lock(tmp_path).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()  # what a killed process leaves is in nobody's way
    with folder_lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_writable(tmp_path):
    with pytest.raises(InputError, match=r"cannot write to the folder .*nothing \(No such file or directory\)"):
        folder_lock(tmp_path / "nothing").__enter__()


def test_two_runs_in_one_folder(tiny_store, tmp_path):
    """The second one is rejected while the first trains, which ends as if nothing had been."""
    out = tmp_path / "out"
    rejected = []

    def again(iteration):
        for resume in (False, True):
            with pytest.raises(InputError) as error:
                run_here(tiny_run(iterations=20), tiny_store, out, resume=resume)
            rejected.append(str(error.value))

    run_here(tiny_run(iterations=20), tiny_store, out, Reports(again))
    assert any("is writing to" in sentence for sentence in rejected)
    run_here(tiny_run(iterations=20), tiny_store, tmp_path / "alone")
    for name in ("examples.parquet", "model/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert not (out / LOCK_FILE).exists()


def test_a_second_run_that_starts_before_the_first_has_written(tiny_store, tmp_path):
    (tmp_path / "out").mkdir()
    with folder_lock(tmp_path / "out"), pytest.raises(InputError, match="is writing to"):
        run_here(tiny_run(iterations=20), tiny_store, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_a_sweep_in_a_folder_that_is_taken(tiny_store, tmp_path, capsys):
    """It is rejected before Ray starts or MLflow has a run of it."""
    with folder_lock(tmp_path), mock.patch("isod.orchestration.sweep.connect", side_effect=AssertionError("started")):
        assert main(["sweep", "--store", tiny_store, "--samplers", "UIS", "--out", str(tmp_path)]) == 2
    assert f"process {os.getpid()} on " in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
