"""The process pool of the prepare job: workers that are killed, interrupted, or never start."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from isod.data.prepare.chunk import ChunkStatus
from isod.data.prepare.job import prepare
from isod.data.prepare.journal import Chunk
from isod.data.prepare.process_pool import in_processes
from isod.data.prepare.settings import PrepareSettings
from isod.data.store.split import CropStore
from isod.errors import InputError
from tests.data.made_reader import MadeFrame, reader

ROOT = Path(__file__).parents[2]
SECONDS = 60  # until a process has come so far, on a busy machine


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def until(holds):
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_worker_that_is_killed_is_a_sentence_and_finished_chunks_are_kept(tmp_path):
    trap, store = tmp_path / "kill", tmp_path / "store"
    trap.touch()
    made = reader(tmp_path / "data", train=20, trap=str(trap))
    with pytest.raises(InputError, match=r"a worker process of the prepare job ended unexpectedly, .* chunks are kept"):
        prepare(made, store, PrepareSettings(chunk_frames=4), progress=False)
    assert multiprocessing.active_children() == []
    trap.unlink()
    report = prepare(made, store, progress=False)
    assert report.resumed >= 1
    assert CropStore.open(store).split("train").annotations().frame_ids == [f"{i:03d}" for i in range(20)]


def nap(chunk):
    time.sleep(600 if chunk.number else 0)
    return ChunkStatus(len(chunk.frames), "")


def test_workers_end_at_once_when_the_caller_stops():
    chunks = [Chunk("train", number, number, [MadeFrame("1", "")]) for number in range(5)]
    results = in_processes(nap, chunks)
    assert next(results).frames == 1
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 10
    assert multiprocessing.active_children() == []


@dataclass
class WithFile:
    file: object


def test_frames_that_cannot_be_sent_are_a_sentence():
    with open(__file__) as file:
        chunks = [Chunk("train", number, number, [WithFile(file)]) for number in range(2)]
        with pytest.raises(InputError, match=r"frames cannot be sent to worker processes \(cannot pickle '_io\.Text"):
            list(in_processes(nap, chunks))


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core, no pool")
@pytest.mark.parametrize(
    ("number", "moment", "code"),
    [(signal.SIGINT, "starting", 130), (signal.SIGINT, "working", 130), (signal.SIGTERM, "working", 143),
     (signal.SIGKILL, "working", -9)],
)  # fmt: skip
def test_an_interrupted_command_ends_at_once_and_keeps_finished_chunks(tmp_path, number, moment, code):
    """Ctrl-C as a terminal sends it, to all processes; the others to the first one alone. A frame of the second of
    four chunks would take ten minutes."""
    trap, store = tmp_path / "sleep", tmp_path / "store"
    trap.touch()
    command = [sys.executable, "-m", "isod", "prepare", "tests.data.made_reader:reader", str(store),
               "--arg", f"root={tmp_path / 'data'}", "--arg", f"trap={trap}"]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def workers():
        found = psutil.Process(first.pid).children(recursive=True)
        return [process for process in found if any("spawn_main" in word for word in process.cmdline())]

    until(workers)
    if moment == "working":
        until(lambda: Path(f"{trap}-entered").exists() and len(list(store.glob("_prepare/*-*.json"))) == 3)
    started = workers()
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(first.pid, number)
    else:
        first.send_signal(number)
    _, error = first.communicate(timeout=SECONDS)
    assert time.monotonic() - began < 10
    assert first.returncode == code
    assert "Traceback" not in error
    if number != signal.SIGKILL:
        assert error.splitlines()[-1] == "isod: stopped"
    until(lambda: not any(process.is_running() for process in started))
    trap.unlink()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("with 3 chunks kept from an interrupted call" in again.stdout) == (moment == "working")
    assert len(CropStore.open(store).split("train")) == 40


def test_a_script_without_a_main_guard_is_a_sentence(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from isod.data.prepare.job import prepare\nfrom tests.data.made_reader import reader\nimport os\n"
        f"os.cpu_count = lambda: 2\nprepare(reader({str(tmp_path / 'data')!r}), {str(tmp_path / 'store')!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    (line,) = [line for line in done.stderr.splitlines() if "ended while they started" in line]
    assert line.endswith('imports the program\'s script, so call prepare under `if __name__ == "__main__":` there')
