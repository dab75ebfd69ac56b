"""``isod settings``: everything that ``--set`` can set."""

from __future__ import annotations

import argparse
from typing import Any

from isod.cli.options import choose_preset, choose_sampler, examples
from isod.config.fields import settings_in
from isod.config.presets import PRESETS
from isod.config.study import sections_of


def add_settings_parser(commands: Any) -> None:
    """Add ``settings`` to the commands."""
    parser = commands.add_parser(
        "settings",
        help="list every setting with its type, default and description",
        description="List every field that --set and a study's TOML file can set: dotted name, default, type, "
        "description.",
        **examples(
            "isod settings --preset medium",
            "isod train STORE --out run --set training.eps=1e-8 detector.blocks=2,2,2,2",
        ),
    )
    parser.add_argument(
        "--preset", default="small", metavar="NAME",
        help=f"whose defaults to list: {', '.join(PRESETS)} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sampler", default="UIS", metavar="NAME", help="whose defaults to list (default: %(default)s)"
    )
    parser.set_defaults(run=settings)


def settings(options: argparse.Namespace) -> None:
    """Print one row for each setting."""
    sections = {"sampler": choose_sampler(options.sampler), **sections_of(choose_preset(options.preset))}
    rows = [("setting", "default", "type", "description")]
    rows += [(s.name, s.text, s.type_name, s.description) for s in settings_in(sections).values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
