"""Run every benchmark that this machine can, and write what came out to benchmarks/RESULTS.md.

    python -m benchmarks [--only NAME …] [--quick] [--out FILE]

Each benchmark is a process of its own: one that fails is reported in a sentence, and the others go on. A row that needs
a GPU, or a package that is not installed, says "not run" and why. With ``--only`` or ``--quick`` nothing is written
unless ``--out`` says where: the figures are printed.
"""

from __future__ import annotations

import argparse
import ast
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import ROOT, environment, machine

RESULTS = Path(__file__).parent / "RESULTS.md"
LONGEST = 1800.0  # seconds that a benchmark may take


@dataclass(frozen=True)
class Row:
    """One benchmark at one size."""

    script: str  # in this folder, without .py
    options: str  # of its command line
    quick: str  # likewise, for --quick
    needs_gpu: bool = False

    @property
    def question(self) -> str:
        """What it measures: the first line of the script's docstring."""
        source = (Path(__file__).parent / f"{self.script}.py").read_text()
        return (ast.get_docstring(ast.parse(source)) or self.script).splitlines()[0].rstrip(".")

    def command(self, quick: bool) -> str:
        """What to type to run it alone."""
        return f"python -m benchmarks.{self.script} {self.quick if quick else self.options}".rstrip()


ROWS = [
    Row("table", "--sizes 90000 1000000 10000000 --rounds 5 --steps 100", "--sizes 90000 --rounds 2 --steps 20"),
    Row(
        "scoring",
        "--device cpu --batch 128 --step-batch 4 --repeats 3",
        "--device cpu --batch 1 --height 64 --width 128 --repeats 1",
    ),
    Row("scoring", "--device cuda --batch 128 --compiled", "--device cuda --batch 8", needs_gpu=True),
    Row("overhead", "", "--rounds 3"),
    Row("overhead", "--preset thesis --height 384 --width 1280", "--preset thesis --rounds 3", needs_gpu=True),
    Row("stream", "", "--frames 40 --steps 10 --repeats 1"),
    Row("evaluation", "", "--images 300 --turns 1"),
    Row("whole_run", "", "--windows 20 --window 4 --slice 0.5 --turns 1 --frames 50"),
    Row(
        "whole_run",
        "--preset small --size 256 80 --windows 6 --turns 2",
        "--preset small --windows 4 --window 4 --turns 1",
    ),
    Row("whole_run", "--preset thesis --size 1280 384 --windows 8 --window 100 --turns 2", "", needs_gpu=True),
    Row("loops", "", "--images 32 --size 64 --steps 2 --turns 1"),
    Row("startup", "", "--turns 1 --samplers baseline UIS"),
    Row("prepare", "", "--frames 20 --turns 1"),
    Row("formats", "", "--frames 40 --turns 1"),
    Row("precision", "", "--turns 1"),
    Row("network", "--device cpu --batch 2 --turns 2", "--device cpu --batch 1 --height 64 --width 128 --turns 1"),
    Row("network", "--device cuda --batch 128", "--device cuda --batch 8", needs_gpu=True),
    Row("growth", "", "--sizes 1000 10000 --turns 1 --steps 3 --trials 1 --iterations 4 --rounds 1"),
]
STUDIES = {
    "planted": "does a sampler work at all",
    "triage": "which ranking finds wrong labels",
    "report": "isod results on a grid of the thesis's size",
}  # of their own, hours in all: not part of this


def run(row: Row, quick: bool) -> str:
    """What the benchmark printed, or why there is nothing."""
    if row.needs_gpu and not torch.cuda.is_available():
        return "not run: no GPU here"
    command = [sys.executable, *shlex.split(row.command(quick))[1:]]
    # files, not pipes: a process that the benchmark left behind would keep a pipe open
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env=environment())
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends what it started
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
            return f"failed: not done after {LONGEST:.0f} s"
        out.seek(0)
        err.seek(0)
        if code != 0:
            lines = [line.strip() for line in err if line.strip()]
            return f"failed: {lines[-1] if lines else f'exit code {code}'}"
        return out.read().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(dict.fromkeys(row.script for row in ROWS))
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="see that they run: the figures mean nothing")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/RESULTS.md")
    options = parser.parse_args()
    began = time.monotonic()
    parts = ["# Results\n", "Written by `python -m benchmarks`; docs/benchmarks.md says what each asks.\n", machine()]
    for row in ROWS:
        if row.script in options.only:
            command = row.command(options.quick)
            print(f"[{time.monotonic() - began:4.0f} s] {command}", file=sys.stderr, flush=True)
            parts.append(f"\n## {row.question}\n\n`{command}`\n\n{run(row, options.quick)}")
    studies = "; ".join(f"`python -m benchmarks.{name}` ({question})" for name, question in STUDIES.items())
    parts.append(f"\nNot part of this, as each is a study of its own: {studies}.")
    text = "\n".join(parts) + "\n"
    out = options.out or (None if options.quick or options.only != names else RESULTS)
    print(text if out is None else f"{out}, after {time.monotonic() - began:.0f} s")
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
