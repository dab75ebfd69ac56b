"""deploy/slurm.sbatch, without Slurm: its commands are stand-ins that run on this machine what they are given."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.system.cluster.local import bare_environment, end_all
from tests.system.faults.conftest import until

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "deploy" / "slurm.sbatch"
CPUS = 3  # of each machine, says Slurm
JOB = os.getpid()  # its number
ADDRESS = f"127.0.0.1:{20000 + JOB % 10000}"

# srun leaves its own options away and notes the command; scontrol and hostname know two machines, both this one.
STAND_INS = {
    "srun": 'while [[ $1 == -* ]]; do shift; done\necho "$@" >> "$STEPS"\nexec "$@"',
    "scontrol": "printf '%s\\n' node1 node2",
    "hostname": "echo 127.0.0.1",
}
# A script that ends when told, with a code of its own.
STOPPABLE = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), pathlib.Path("last-results").touch(), sys.exit(3)))
pathlib.Path("begun").touch()
time.sleep(120)
"""
# Waits until both machines have joined, says so, and continues as a sweep there.
SWEEP = """
import sys, time
import ray
from isod.cli.sweep import main
from sweeps.thesis_grid import STUDY

ray.init(address=sys.argv[-1], log_to_driver=False)
while len([node for node in ray.nodes() if node["Alive"]]) < 2:
    time.sleep(0.5)
print("two machines", flush=True)
sys.exit(main(STUDY, None))
"""


def start(folder, *arguments, **stand_ins):
    """The batch script as Slurm starts it, on two machines."""
    for name, body in {**STAND_INS, **stand_ins}.items():
        program = folder / "stand-ins" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{folder}/stand-ins:{Path(sys.executable).parent}:$PATH"\n')
    slurm = {"SLURM_JOB_ID": str(JOB), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
             "SLURM_CPUS_PER_TASK": str(CPUS), "STEPS": str(folder / "steps"), "PYTHONPATH": str(ROOT)}  # fmt: skip
    environment = bare_environment() | slurm
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["bash", SBATCH, *arguments], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def still_there():
    """Command lines of what belongs to the Ray of these tests, by its address."""
    done = subprocess.run(["pgrep", "-af", ADDRESS], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_bash_reads_it_and_slurm_s_lines_are_above_the_first_command():
    subprocess.run(["bash", "-n", SBATCH], check=True)
    before, after = SBATCH.read_text().split("\nset -euo pipefail\n")
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", before, re.MULTILINE))
    assert "#SBATCH" not in after
    assert directives["signal"] == "B:TERM@300"  # to the script itself, which ends its sweep
    assert directives["ntasks-per-node"] == "1"
    assert "time" in directives  # no machine is held for ever


def test_sigterm_ends_the_script_and_then_ray(tmp_path):
    (tmp_path / "script.py").write_text(STOPPABLE)
    ray = '[[ $1 == health-check ]] || { touch "ray-$$"; exec sleep 100; }'
    process = start(tmp_path, "script.py", ray=ray)
    try:
        until(lambda: (tmp_path / "begun").exists() or process.poll() is not None, 60)
        until(lambda: len([*tmp_path.glob("ray-*")]) > 1 or process.poll() is not None, 60)  # the script waits for none
        started = [int(path.name.removeprefix("ray-")) for path in tmp_path.glob("ray-*")]
        assert len(started) == 2, (tmp_path / "log").read_text()  # a head and a worker
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 3, (tmp_path / "log").read_text()
        assert (tmp_path / "last-results").exists()
        assert not any(map(psutil.pid_exists, started))
    finally:
        end_all(process)


def test_a_head_that_does_not_start_ends_the_job(tmp_path):
    process = start(tmp_path, "script.py", ray="echo no room >&2; exit 1")
    try:
        assert process.wait(60) == 1
        assert "Ray did not start on node1" in (tmp_path / "log").read_text()
    finally:
        end_all(process)


@pytest.mark.slow  # a minute or two, most of it Ray's
@pytest.mark.timeout(500)
def test_a_sweep_on_two_machines(tiny_store, tmp_path):
    (tmp_path / "script.py").write_text(SWEEP)
    process = start(
        tmp_path, "script.py", "--store", tiny_store, "--preset", "demo", "--samplers", "baseline", "UIS", "--seeds",
        "1", "--iterations", "6", "--batch-size", "4", "--validate-every", "3", "--width", "0.125", "--workers", "1",
        "--out", "runs",
    )  # fmt: skip
    try:
        assert process.wait(450) == 0, (tmp_path / "log").read_text()
        assert "two machines" in (tmp_path / "log").read_text()
        until(lambda: not still_there(), 60)
    finally:
        end_all(process)
    steps = (tmp_path / "steps").read_text().splitlines()
    assert f"--address={ADDRESS}" in steps[2]
    assert [step.split()[:3] for step in steps[1:]] == [["ray", "start", "--head"], ["ray", "start", "--block"]]
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name(f"thesis-grid-{Path(tiny_store).name}")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    (machine,) = {run.data.tags["isod.machine"] for run in runs if "isod.sweep" in run.data.tags}
    assert f"{2 * CPUS} CPUs" in machine
