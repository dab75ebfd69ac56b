"""Two programs in slices: who runs while the other stands still, and what is counted."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.slices import Side, alternate, rate
from isod.errors import InputError

STAMPS = """
import subprocess, sys, time
if sys.argv[2] == "parent":
    sys.exit(subprocess.call([sys.executable, sys.argv[0], sys.argv[1], "child", sys.argv[3]]))
with open(sys.argv[1], "w", buffering=1) as file:
    for _ in range(int(sys.argv[3])):
        file.write(f"{time.time()}\\n")
        time.sleep(0.01)
"""


def test_rate_leaves_out_the_seconds_of_standing_still():
    active = [(0.0, 10.0), (20.0, 25.0), (30.0, 35.0)]
    points = [(50, 34.0), (10, 5.0), (20, 8.0), (40, 32.0), (30, 24.0)]
    # from 5 to 32 it ran for 5 + 5 + 2 s; the last point is too late
    assert rate(points, active, 33.0) == pytest.approx((40 - 10) / 12)
    with pytest.raises(InputError, match="give more --windows"):
        rate(points, active, 6.0)


def test_a_side_stands_still_with_its_children_while_the_other_runs(tmp_path: Path):
    script = tmp_path / "stamps.py"
    script.write_text(STAMPS)
    files = [tmp_path / "one", tmp_path / "other"]
    commands = [[sys.executable, str(script), str(file), "parent", "150"] for file in files]
    with Side(commands[0], tmp_path / "one.log") as one, Side(commands[1], tmp_path / "other.log") as other:
        for side, file in ((one, files[0]), (other, files[1])):
            while side.running() and not (file.exists() and file.stat().st_size):
                side.wait(0.01)
            side.pause()
        began = time.time()
        ended = alternate([one, other], 0.2)
        assert [one.running(), other.running()].count(True) <= 1
    slices = [[span for span in side.active if span[0] >= began] for side in (one, other)]
    assert all(len(found) >= 3 for found in slices)
    # a process that is told to stop may finish what it is at
    for file, own in zip(files, slices, strict=True):
        stamps = [stamp for stamp in map(float, file.read_text().split()) if began < stamp < ended]
        assert len(stamps) > 20
        assert all(any(start <= stamp <= end + 0.05 for start, end in own) for stamp in stamps)


def test_a_side_that_fails_is_said_with_its_last_line(tmp_path: Path):
    with Side([sys.executable, "-c", "raise SystemExit('no such store')"], tmp_path / "log") as side:
        side.wait(60)
        with pytest.raises(RuntimeError, match="exit code 1: no such store"):
            side.running()


def test_a_side_that_stands_still_is_ended_with_its_children(tmp_path: Path):
    script, file = tmp_path / "stamps.py", tmp_path / "file"
    script.write_text(STAMPS)
    with Side([sys.executable, str(script), str(file), "parent", "100000"], tmp_path / "log") as side:
        while side.running() and not file.exists():
            side.wait(0.01)
        side.pause()
        family = side.processes()
        assert len(family) == 2
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
