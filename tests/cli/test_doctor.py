"""The page about a machine, against what the machine says itself; completion, in a real shell."""

import os
import platform
import resource
import socket
import subprocess
import sys
from importlib.metadata import version

import pytest

from isod.cli.main import main


@pytest.fixture
def page(capsys, monkeypatch, tmp_path):
    """Runs ``isod doctor`` in an empty folder; what it says, by the name of the row."""
    monkeypatch.chdir(tmp_path)

    def run(*options, **environment):
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main(["doctor", *options]) == 0
        lines = capsys.readouterr().out.splitlines()
        width = max(len(line.split("  ")[0]) for line in lines)
        return {line[:width].strip(): line[width:].strip() for line in lines}

    return run


def test_it_says_what_the_machine_says(page, tmp_path):
    rows = page()
    for name in ("torch", "ray", "mlflow", "numba"):
        assert rows[name] == version(name)
    assert rows["Python"] == f"{platform.python_version()}, {sys.executable}"
    assert f"{len(os.sched_getaffinity(0))} cores" in rows["processor"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert rows["open files"] == f"at most {soft} of {hard}"
    assert rows["MLflow"] == f"sqlite:///{tmp_path}/out/mlflow.db: does not exist yet"
    assert rows["Ray"] == "RAY_ADDRESS is not set"
    assert not any("cannot be found out" in value for value in rows.values())
    assert list(tmp_path.iterdir()) == []


def test_it_tells_servers_that_answer_from_those_that_do_not(page):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        rows = page("--tracking-uri", f"http://{address}", RAY_ADDRESS=f"ray://{address}")
    assert rows["MLflow"] == f"http://{address}: answers"
    assert rows["Ray"] == f"RAY_ADDRESS is ray://{address}: answers"
    rows = page(MLFLOW_TRACKING_URI=f"http://{address}")
    assert rows["MLflow"].startswith(f"http://{address}: nobody answers")


def test_a_row_that_fails_leaves_the_others(page, monkeypatch):
    monkeypatch.setattr("isod.cli.doctor._memory", lambda: 1 / 0)
    rows = page()
    assert rows["memory"] == "cannot be found out (ZeroDivisionError: division by zero)"
    assert rows["numba"] == version("numba")


def test_bash_completes_commands_and_options(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "isod.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        line = " ".join(f"'{word}'" for word in words)
        ask = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_isod; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.split()

    assert completed("isod", "tr") == ["train", "triage"]
    assert completed("isod", "train", "--batch") == ["--batch-size"]
    assert completed("isod", "prepare", "--qu") == ["--quiet"]
    assert "--tracking-uri" in completed("isod", "results", "--tr")
