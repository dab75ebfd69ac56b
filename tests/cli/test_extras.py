"""What a missing package and an unused one mean: light imports, lazy names, and one sentence with the extra."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import isod
from isod.cli import main as cli
from isod.extras import EXTRAS, missing

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "ray", "mlflow", "lance", "pyarrow", "matplotlib", "pandas", "scipy", "zod"}


def python(code: str, code_expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code_expected, done.stderr
    return done


def without(*modules: str) -> str:
    """Code that makes importing these fail, as if they were not installed."""
    return f"import sys\nfor name in {modules!r}: sys.modules[name] = None\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["sweep", "--help"], ["samplers"]]
)
def test_starting_the_command_line_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom isod.cli.main import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    )
    loaded = python(code).stdout.rpartition("LOADED")[2].split()
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


def test_importing_isod_imports_nothing_but_itself():
    before, after = python("import sys\nprint(*sys.modules)\nimport isod\nprint(*sys.modules)").stdout.splitlines()
    new = {name.partition(".")[0] for name in set(after.split()) - set(before.split())}
    assert new - set(sys.stdlib_module_names) == {"isod"}
    assert not {name for name in after.split() if name.startswith("isod.")}


@pytest.mark.parametrize("name", sorted(isod.__all__))
def test_every_public_name_is_what_its_home_calls_so(name):
    assert getattr(isod, name) is not None
    assert name in dir(isod)
    assert set(isod.__all__) == set(isod._HOME)


def test_the_version_is_that_of_the_package(capsys):
    assert (
        isod.__version__
        == version("isod")
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"isod {version('isod')}\n"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = isod.nothing


@pytest.mark.parametrize(
    ("modules", "arguments", "sentence"),
    [
        (["ray"], ["sweep", "--out", "{}"], "isod sweep needs ray: pip install 'isod[grid]'"),
        (["mlflow"], ["results", "--tracking-uri", "u", "--experiment", "e", "--out", "{}"],
         "isod results needs mlflow: pip install 'isod[grid]'"),
        (["torch"], ["train", "s", "--out", "{}"], "isod train needs torch: pip install 'isod[train]'"),
        (["PIL"], ["prepare", "coco", "s", "--train", "a", "b"], "isod prepare needs PIL: pip install 'isod[train]'"),
    ],
)  # fmt: skip
def test_a_missing_package_is_one_sentence_with_its_extra(tmp_path, modules, arguments, sentence):
    arguments = [argument.format(tmp_path / "out") for argument in arguments]
    code = without(*modules) + f"from isod.cli.main import main\nsys.exit(main({arguments}))"
    assert python(code, 2).stderr == sentence + "\n"
    assert not (tmp_path / "out").exists()


def test_a_detector_says_which_extra_it_needs(tiny_store, tmp_path):
    arguments = ["train", tiny_store, "--out", str(tmp_path / "run"), "--device", "cpu", "--set", "detector.name=detr"]
    code = without("transformers") + f"from isod.cli.main import main\nsys.exit(main({arguments}))"
    assert python(code, 2).stderr == "isod: detector 'detr' needs transformers: pip install 'isod[detr]'\n"


def test_without_any_extra_what_needs_none_still_works():
    code = without(*EXTRAS) + "from isod.cli.main import main\nsys.exit(main({}))"
    assert "UIS" in python(code.format(["samplers"])).stdout
    assert "training.lr" in python(code.format(["settings"])).stdout
    assert "prepare" in python(code.format(["--help"])).stdout
    python(without(*EXTRAS) + "import isod\nisod.ImportanceTable, isod.SAMPLERS, isod.PRESETS, isod.RunConfig")


def test_a_lazy_name_says_which_extra_it_needs():
    error = python(without("pyarrow") + "from isod import CropStore", 1).stderr.splitlines()[-1]
    assert error == "ModuleNotFoundError: isod.CropStore needs pyarrow: pip install 'isod[train]'"


def test_a_module_that_no_extra_brings_is_an_error_of_its_own(capsys):
    assert missing("isod train", ModuleNotFoundError(name="somebody")) is None

    def broken():
        raise ModuleNotFoundError("No module named 'somebody'", name="somebody")

    with pytest.raises(ModuleNotFoundError, match="somebody"):
        cli.exit_cleanly("isod", [], broken)


def test_every_extra_that_is_named_brings_the_module():
    """By the names of the distributions, where these differ from the modules'."""
    names = {
        "lance": "pylance",
        "PIL": "pillow",
        "yaml": "pyyaml",
        "sqlalchemy": "mlflow",
        "dataclass_wizard": "dataclass-wizard",
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for module, extra in EXTRAS.items():
        assert any(line.startswith(names.get(module, module)) for line in extras[extra]), module
