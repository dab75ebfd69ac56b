"""README and docs/ say what is so: their code runs, their commands exist, their tables and links are right.

A code block is run, unless an HTML comment in the line before it says why not:

    <!-- test: slow -->                      run with -m slow, after the page's earlier commands
    <!-- test: skip (needs a cluster) -->    not run; its isod commands are parsed all the same
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from isod.sampling.samplers import SAMPLERS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REASONS = ("a cluster", "a GPU", "data that is not here", "minutes")
CI_RUNS = ("<!-- run -->", "<!-- test -->")  # README's two commands: .ci/run takes the second, a person the first
# Appended to `isod train` and `isod sweep`, which without it take minutes.
SMALL = "--iterations 4 --batch-size 4 --validate-every 2 --width 0.125"


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    mark: str  # the HTML comment before it; "" for none
    code: str

    @property
    def slow(self):
        return self.mark == "<!-- test: slow -->"

    @property
    def skipped(self):
        return self.mark.startswith("<!-- test: skip") or self.mark in CI_RUNS

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(text, page):
    """The fenced code blocks of a page, in order."""
    found, before, inside = [], "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            if line.startswith("```"):
                found.append(Block(page, inside[0], inside[1], inside[2], "".join(inside[3])))
                inside, before = None, ""
            else:
                inside[3].append(line + "\n")
        elif line.startswith("```"):
            inside = (number, line.removeprefix("```").strip(), before, [])
        elif line.strip():
            before = line.strip() if line.strip().startswith("<!--") else ""
    return found


def commands_in(code):
    """The command lines of a shell block, each a list of words; `a && b` is two."""
    for line in code.replace("\\\n", " ").splitlines():
        words, command = shlex.split(line, comments=True), []
        for word in [*words, ";"]:
            if word in ("&&", "||", ";", "|"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


BLOCKS = [b for page in PAGES for b in blocks_of(page.read_text(), str(page.relative_to(ROOT)))]
PYTHON = list({b.code: b for b in BLOCKS if b.language == "python" and not b.skipped}.values())  # each once
SHELL = [b for b in BLOCKS if b.language == "bash"]
RUN = [b for b in SHELL if not b.skipped and b.page != "CONTRIBUTING.md"]


def environment():
    """As a shell in which isod's environment is active."""
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return here | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


def test_blocks_are_found_with_their_marks():
    text = "a\n<!-- test: slow -->\n```bash\nx # y\n# z\n```\n\nb\n```python\n1\n```\n"
    assert [(b.line, b.language, b.mark, b.code) for b in blocks_of(text, "p")] == [
        (3, "bash", "<!-- test: slow -->", "x # y\n# z\n"),
        (9, "python", "", "1\n"),
    ]
    assert list(commands_in("a 'b c' && d # e\nf \\\n  g\n")) == [["a", "b c"], ["d"], ["f", "g"]]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_of_a_known_kind_and_a_skipped_one_says_why(block):
    assert block.language in ("python", "bash", "toml", "text"), "give the block a language: text if it is output"
    if block.mark.startswith("<!-- test:"):
        skip = re.fullmatch(r"<!-- test: skip \(needs (.+)\) -->", block.mark)
        assert block.slow or (skip and skip[1] in REASONS), block.mark


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_an_example_runs_alone(block, tmp_path):
    """Each in a process of its own, in an empty folder: nothing is borrowed from the example above it."""
    (tmp_path / "example.py").write_text(block.code)
    command = [sys.executable, "example.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=str)
def test_a_study_can_be_read(block, tmp_path):
    from isod.config.presets import PRESETS
    from isod.config.search import read_search
    from isod.config.study import read_study

    path = tmp_path / "study.toml"
    path.write_text(block.code)
    if "[settings]" in block.code:
        assert read_search(path).corners(PRESETS["small"])
        return
    study = read_study(path)
    assert study.choose(None)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_what_the_parsers_take(block):
    from isod.cli.main import build_parser
    from isod.cli.prepare import format_parser
    from isod.cli.sweep import build_parser as build_script_parser

    for words in commands_in(block.code):
        program = Path(words[0]).name
        if program == "isod":
            options = build_parser().parse_args(words[1:])
            if options.command == "prepare":
                format_parser(options.format).parse_args(options.rest)
        elif program == "python" and words[1].startswith("sweeps/"):
            script = import_module(words[1].removesuffix(".py").replace("/", "."))
            # What gives a script the option --images, and what makes options of a stage
            stores = [getattr(script, name) for name in ("traffic_store", "tiles_store") if hasattr(script, name)]
            parser = build_script_parser(script.STUDY, None, store_from_images=next(iter(stores), None))
            script.STUDY.choose(parser.parse_args(getattr(script, "with_stage", list)(words[2:])).samplers)
            continue
        else:
            continue
        for name in [getattr(options, "sampler", None), *(getattr(options, "samplers", None) or [])]:
            assert name is None or name in SAMPLERS, name


@pytest.fixture
def folder(tmp_path):
    """Where a page's commands run: ``images/`` with ``train.json`` and ``val.json``, COCO sets of ten and four."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for split, count in (("train", 10), ("val", 4)):
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 80, (72, 128, 3), dtype=np.uint8)
            x, y = (int(v) for v in rng.integers(8, 40, 2))
            pixels[y : y + 20, x : x + 30] = (230, 60, 60)
            name = f"{split}{i}.jpg"
            (tmp_path / "images" / name).write_bytes(simplejpeg.encode_jpeg(pixels))
            images.append({"id": i, "file_name": name, "width": 128, "height": 72})
            annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [x, y, 30, 20], "area": 600,
                                "iscrowd": 0})  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    return tmp_path


def run_shell(blocks, folder):
    """Run shell blocks as one script, with runs made small."""
    small = f'isod() {{ case "$1" in train | sweep) command isod "$@" {SMALL} ;; *) command isod "$@" ;; esac; }}\n'
    script = "set -euo pipefail\n" + small + "".join(block.code for block in blocks)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("page", sorted({b.page for b in RUN if not b.slow}))
def test_the_commands_of_a_page_run(page, folder):
    run_shell([b for b in RUN if b.page == page and not b.slow], folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in RUN if b.slow}))
def test_the_commands_of_a_page_run_one_after_the_other(page, folder):
    run_shell([b for b in RUN if b.page == page], folder)


def test_every_sampler_has_its_row():
    """docs/samplers.md beside ``SAMPLERS``: names in order, strategy and source."""
    text = (ROOT / "docs" / "samplers.md").read_text().partition("## All")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "| `" in line]
    assert [row[0].strip("|` ") for row in rows] == list(SAMPLERS)
    for row, sampler in zip(rows, SAMPLERS.values(), strict=True):
        heuristic = f"{sampler.heuristic} · {sampler.reduction}" if sampler.heuristic else "–"
        assert row[2].startswith(heuristic), row
        assert row[3].split(",")[0] == sampler.strategy, row
        assert row[4] == sampler.source, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    named = re.findall(r"`((?:isod|tests|sweeps|notebooks|benchmarks|docs)/[\w./*-]+)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = re.findall(r"`(isod(?:\.[a-z_]+){2,})[`.(]", text)
    assert [name for name in modules if not _is_importable(name)] == []
    if page.parent == ROOT:
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        assert [link for link in links if not (ROOT / link).exists()] == []


def _is_importable(dotted):
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = dotted.rpartition(".")
    try:
        return find_spec(dotted) is not None or hasattr(import_module(module), attribute)
    except ModuleNotFoundError:
        return hasattr(import_module(module), attribute)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: extra docs")
def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text()
        loaded = re.findall(r"<(?:script|img|source|iframe)[^>]*\ssrc=[\"']?((?:https?:)?//[^\"'> ]+)", html)
        loaded += re.findall(r"<link[^>]*\shref=[\"']?((?:https?:)?//[^\"'> ]+)", html)
        assert loaded == [], page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()), sheet
