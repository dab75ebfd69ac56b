"""The wheel in environments of its own: what `pip install isod` brings without extras, and with all of them."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
LIBRARY = {"isod", "numpy", "numba", "llvmlite"}  # and torch, which the user has
pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="uv is not installed")]


def run(*command, cwd, code=0):
    """Run a command in a folder outside of the checkout, without what this environment would lend it."""
    lent = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in lent}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy without what an earlier build left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "isod", source / "isod", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, source)
    run(UV, "build", "--quiet", "--wheel", "--out-dir", out, source, cwd=out)
    (path,) = out.glob("isod-*.whl")
    return path


@pytest.fixture
def install(wheel, tmp_path):
    """Make an environment with the wheel and other packages, at constraints.txt's versions; give its programs."""

    def make(extras, *packages):
        environment = tmp_path / "environment"
        run(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=tmp_path)
        python = environment / "bin" / "python"
        command = (UV, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt")
        run(*command, f"{wheel}{extras}", *packages, cwd=tmp_path)
        return environment / "bin"

    return make


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"isod", f"{wheel.name.rpartition('-py3')[0]}.dist-info"}
    templates = [f"isod/results/{page}.html.j2" for page in ("report/report", "triage/triage")]
    assert {"isod/py.typed", "isod/cli/sweep.py", *templates} <= set(names)


@pytest.mark.timeout(1800)
def test_without_extras_the_library_works_beside_torch_alone(install, tmp_path):
    programs = install("", "torch")
    installed = run(UV, "pip", "list", "--python", programs / "python", cwd=tmp_path)
    names = {line.split()[0] for line in installed.splitlines()[2:]}
    assert names >= LIBRARY
    assert not names & {"ray", "mlflow", "pylance", "pyarrow", "pandas", "torchvision"}
    for module in ("ray", "mlflow", "lance"):
        assert "ModuleNotFoundError" in run(programs / "python", "-c", f"import {module}", cwd=tmp_path, code=1)

    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "README.md").read_text())
    example = next(block for block in blocks if "ImportanceBatchSampler" in block)
    (tmp_path / "example.py").write_text(example)
    run(programs / "python", "example.py", cwd=tmp_path)

    assert run(programs / "isod", "--version", cwd=tmp_path).startswith("isod ")
    assert "UIS" in run(programs / "isod", "samplers", cwd=tmp_path)
    for arguments, sentence in (
        (["sweep"], "isod sweep needs ray: pip install 'isod[grid]'"),
        (["prepare", "coco"], r"isod prepare needs \w+: pip install 'isod\[train\]'"),
    ):
        said = run(programs / "isod", *arguments, cwd=tmp_path, code=2)
        assert said == sentence + "\n" or re.fullmatch(sentence + "\n", said)


@pytest.mark.timeout(1800)
def test_with_all_extras_a_grid_runs_outside_of_a_checkout(install, tmp_path):
    programs = install("[all]")
    sweep = ["sweep", "--demo-frames", 40, "--samplers", "baseline", "LIS", "--seeds", 1]
    size = ["--iterations", 8, "--validate-every", 4, "--batch-size", 8, "--width", 0.125]
    printed = run(programs / "isod", *sweep, *size, cwd=tmp_path)
    table = printed[printed.index("sampler   seeds  speed-up") :]
    assert re.search(r"(?m)^baseline  1 ", table)
    assert re.search(r"(?m)^LIS       1 ", table)
    assert printed.splitlines()[-2].startswith("compare runs: mlflow ui --backend-store-uri ")
    assert (tmp_path / "out/report/report.html").exists()
