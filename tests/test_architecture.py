"""The arrows between the rooms: who may import whom, and what can be used without Ray, MLflow or torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "isod"

GROUND_FLOOR = {
    "console", "errors", "extras", "files", "messages", "objects", "outcome", "plugins", "processes", "signals",
    "version", "vocabulary",
}  # fmt: skip
LIBRARY = GROUND_FLOOR | {"sampling"}  # what `pip install isod` without extras runs
CONFIGURED = LIBRARY | {"config"}
COMPUTING = {"data", "detector", "evaluation"}
ROOMS = CONFIGURED | COMPUTING
# What each room of isod may import, beside itself. Not listed: cli, __main__ and isod itself, whose names load on first
# use; these may import anything.
ARROWS: dict[str, set[str]] = {
    **dict.fromkeys(GROUND_FLOOR, GROUND_FLOOR),
    "sampling": GROUND_FLOOR,
    "adapters": LIBRARY,
    "config": LIBRARY,
    **dict.fromkeys(COMPUTING, CONFIGURED),
    "training": ROOMS,
    "inference": ROOMS,
    "tracking": ROOMS | {"training", "inference"},
    "orchestration": ROOMS | {"training", "tracking"},
    "results": ROOMS | {"training", "inference", "tracking"},
}
ENTRANCES = {"cli", "__main__", ""}
MAY_IMPORT = {"ray": {"orchestration"}, "mlflow": {"tracking"}}
TORCH_FREE = [  # decode workers and the table actor import these: torch would cost each of them 10 s and 300 MB
    "isod.config.presets",
    "isod.errors",
    "isod.data.prepare.job",
    "isod.data.store.split",
    "isod.sampling.table",
    "isod.sampling.schedule",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """ "data" for isod.data.store; "" for isod itself."""
    return module.partition(".")[2].partition(".")[0]


def imports(module: str, path: Path) -> set[str]:
    """Every module that the file imports, at its top or inside a function, by full name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [start, node.module]))
            # `from isod import data` names a module, `from isod.config import SAMPLERS` does not
            found |= {f"{base}.{alias.name}" if base == "isod" else base for alias in node.names}
    return found


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", SOURCES)
def test_arrows_point_one_way(module):
    here = room(module)
    if here in ENTRANCES:
        return
    assert here in ARROWS, f"{module} is a new room: give it its arrows in {Path(__file__).name}"
    allowed = ARROWS.get(here, set()) | {here, "", "__version__"}
    for imported in imports(module, SOURCES[module]):
        if imported.split(".")[0] == "isod":
            assert room(imported) in allowed, f"{module} must not import {imported}"
        assert imported.split(".")[0] not in {"sweeps", "tests", "benchmarks"}, f"{module} must not import {imported}"


@pytest.mark.parametrize("module", SOURCES)
def test_only_the_edge_imports_ray_and_mlflow(module):
    for imported in imports(module, SOURCES[module]):
        library = imported.split(".")[0]
        if library in MAY_IMPORT:
            assert room(module) in MAY_IMPORT[library], f"{module} must not import {imported}"


def import_without(libraries: list[str], modules: list[str]) -> None:
    run_python(
        "import importlib, sys\n"
        f"for library in {libraries}: sys.modules[library] = None\n"  # importing it now raises ModuleNotFoundError
        f"for module in {modules}: importlib.import_module(module)\n"
    )


def test_everything_but_the_edge_works_without_ray_and_mlflow():
    # adapters need a library each, see below
    without = {"orchestration", "tracking", "results", "__main__", "adapters"}
    modules = [module for module in SOURCES if room(module) not in without]
    assert {room(module) for module in modules} >= ROOMS | {"training", "inference"}
    import_without(["ray", "mlflow"], modules)


OF_ADAPTERS = ["lightning", "transformers", "accelerate", "ultralytics", "torchvision"]


def test_an_adapter_needs_no_library_but_its_own_and_nothing_imports_an_adapter():
    own = {"transformers": {"accelerate"}}
    modules = [module for module in SOURCES if room(module) == "adapters"]
    for module in modules:
        name = module.rpartition(".")[2]
        others = set(OF_ADAPTERS) - {name} - own.get(name, set())
        assert not {imported.split(".")[0] for imported in imports(module, SOURCES[module])} & others, module
    for module in set(SOURCES) - set(modules):
        found = imports(module, SOURCES[module])
        assert not {imported for imported in found if room(imported) == "adapters"}, module
        others = set(OF_ADAPTERS[:-1]) - ({"transformers"} if module == "isod.detector.detr" else set())
        assert not {imported.split(".")[0] for imported in found} & others, module
    import_without([*OF_ADAPTERS, "ray", "mlflow"], ["isod.adapters", "isod.adapters.common"])


def test_results_work_without_ray():
    import_without(["ray"], [module for module in SOURCES if room(module) == "results"])


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("isod.results", {"torch", "torchvision"}),  # importing it takes as long as a small report
        ("isod.orchestration.sweep", {"torch", "torchvision", "mlflow", "matplotlib"}),  # Ray would start after them
        ("isod.tracking.sweep_reader, isod.tracking.sweep_writer", {"torch", "ray"}),
    ],
)
def test_reports_and_drivers_do_without_what_takes_seconds_to_import(module, absent):
    assert not absent & set(run_python(f"import sys, {module}\nprint(*sys.modules)").split())


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_no_torch(module):
    loaded = run_python(f"import sys, {module}\nprint(*sys.modules)").split()
    assert not {"torch", "torchvision", "ray", "mlflow"} & set(loaded)


def test_imports_are_found_however_they_are_written(tmp_path):
    """The checks above see every form: plain, from, relative, inside a function."""
    path = tmp_path / "x.py"
    path.write_text(
        "import ray.data as rd\nfrom isod import results\nfrom . import sibling\nfrom ..sampling import table\n"
        "def f():\n    from mlflow import log_metric\n"
    )
    assert imports("isod.data.x", path) == {"ray.data", "isod.results", "isod.data", "isod.sampling", "mlflow"}


def test_tracked_files_name_no_package_registry_and_no_path_of_one_machine():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    forbidden = re.compile(r'https?://[^ )"]+/(simple|packages)/|/(work|farm)/')
    files = [ROOT / name for name in listed.split("\0") if name]
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files
        if path.is_file()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not hits, "\n".join(hits)
