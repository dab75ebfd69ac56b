"""``isod completion``: a script that completes isod's commands and options in a shell."""

from __future__ import annotations

import argparse
from typing import Any

from isod.cli.options import examples

SHELLS = ("bash", "zsh", "tcsh")


def add_completion_parser(commands: Any) -> None:
    """Add ``completion SHELL`` to the commands."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description="Print a script that completes isod's commands and options in a shell.",
        **examples(
            'eval "$(isod completion bash)"',
        ),
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=completion)


def completion(options: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from isod.cli.main import build_parser

    print(shtab.complete(build_parser(), shell=options.shell))
