"""``isod samplers``: the samplers that have a name."""

from __future__ import annotations

import argparse
from typing import Any

from isod.cli.options import examples
from isod.sampling.samplers import SAMPLERS


def add_samplers_parser(commands: Any) -> None:
    """Add ``samplers`` to the commands."""
    commands.add_parser(
        "samplers",
        help="list the named samplers",
        description="List the named samplers: heuristic, reduction and strategy of each, what it does, and its source.",
        **examples("isod samplers"),
    ).set_defaults(run=samplers)


def samplers(options: argparse.Namespace) -> None:
    """Print two lines for each sampler: its parts, and what it does."""
    rows = [("sampler", "heuristic", "reduction", "strategy")]
    for sampler in SAMPLERS.values():
        parts = (sampler.heuristic, sampler.reduction) if sampler.heuristic else ("–", "–")
        chosen = f", {sampler.selection} of {sampler.candidates}" if sampler.candidates > 1 else ""
        rows.append((sampler.name, *parts, sampler.strategy + chosen))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["what it does (source)", *(f"{sampler.summary} ({sampler.source})" for sampler in SAMPLERS.values())]
    for row, text in zip(rows, lines, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(f"    {text}")
