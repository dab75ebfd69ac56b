"""``isod demo``: synthetic data in ZOD's own layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import examples


def add_demo_parser(commands: Any) -> None:
    """Add ``demo ROOT`` to the commands."""
    parser = commands.add_parser(
        "demo",
        help="write synthetic data in the layout of ZOD Frames",
        description="Write synthetic frames in the layout of ZOD Frames, to try isod without a data set.",
        **examples(
            "isod demo demo-zod --frames 40", "isod prepare zod demo-zod demo-store --version mini --resize 160 48"
        ),
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder to write")
    parser.add_argument("--frames", type=int, default=1000, metavar="N", help="number of frames (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the frames (default: %(default)s)")
    parser.set_defaults(run=demo)


def demo(options: argparse.Namespace) -> None:
    """Write the frames."""
    from isod.console import progress_bar
    from isod.data.demo.zod_layout import write_demo

    with progress_bar(options.frames, what="writing") as advance:
        write_demo(options.root, frames=options.frames, seed=options.seed, progress=advance)
    print(f"demo data (synthetic, in ZOD's layout): {options.root}")
