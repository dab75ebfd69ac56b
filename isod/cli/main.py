"""The ``isod`` command: its parser, and the exit code of whatever it runs.

Bad input ends with one sentence on standard error and exit code 2. A regression that ``isod results`` was asked to fail
on ends with one line per class and size and exit code 1.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from isod.cli.options import CommandParser, add_quiet
from isod.console import quiet, say
from isod.errors import InputError
from isod.extras import missing
from isod.messages import messages_to
from isod.signals import sigterm_as_ctrl_c

COMMANDS = (
    "demo", "prepare", "probe", "samplers", "settings", "train", "sweep", "search", "results", "triage", "select",
    "predict", "evaluate", "export", "doctor", "completion",
)  # fmt: skip


class _Version(argparse.Action):
    """Prints the version and exits. Reads the metadata only when asked to."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import isod

        print(f"isod {isod.__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; each sets ``run`` to the function that carries it out."""
    parser = CommandParser(
        prog="isod",
        description="Importance sampling for object detectors. `isod COMMAND --help` explains each command.",
        epilog="example:\n  isod sweep --demo-frames 200 --samplers baseline LIS --seeds 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        try:
            getattr(import_module(f"isod.cli.{name}"), f"add_{name}_parser")(commands)
            add_quiet(commands.choices[name])
        except ModuleNotFoundError as error:
            _add_command_without(commands, name, error)
    return parser


def _add_command_without(commands: Any, name: str, error: ModuleNotFoundError) -> None:
    """Add a command whose options cannot be made as a module is missing: it fails for want of that module."""
    if (sentence := missing(f"isod {name}", error)) is None:
        raise error

    def fail(options: argparse.Namespace) -> None:
        raise error

    parser = commands.add_parser(name, help=sentence, prefix_chars="\0", add_help=False)  # every word is an argument
    parser.add_argument("words", nargs="*")
    parser.set_defaults(run=fail)


def _say_what_is_missing(who: str, error: ModuleNotFoundError) -> int:
    """Print which extra brings the missing module and return the exit code. Raises the error if none does."""
    if (sentence := missing(who, error)) is None:
        raise error
    print(sentence, file=sys.stderr)
    return 2


def _is_text(word: str) -> bool:
    """Whether it can name a file everywhere: bytes that are no UTF-8 reach Python as half surrogate pairs."""
    return "\0" not in word and not any("\ud800" <= character <= "\udfff" for character in word)


def exit_cleanly(program: str, arguments: Sequence[str] | None, action: Callable[[], int | None]) -> int:
    """Run the action, print what it logs, and return its exit code, or 0.

    Bad input is one sentence on standard error and exit code 2, also where a package is missing; a loss that is not
    finite is one and exit code 1. A Ctrl-C or SIGTERM that the action does not handle itself is one word and exit code
    130 or 143.

    Args:
        arguments: of the command line; None for the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding cannot show every name, or "×"; a log is read while it is written
            stream.reconfigure(errors="replace", line_buffering=True)
    with sigterm_as_ctrl_c() as terminated:
        code = _exit_code(program, arguments, action)
        return 143 if code == 130 and terminated else code


def _exit_code(program: str, arguments: Sequence[str] | None, action: Callable[[], int | None]) -> int:
    try:
        for word in sys.argv[1:] if arguments is None else arguments:
            if not _is_text(word):
                raise InputError(f"{word!r:.200} is no UTF-8 text, as file names and all else must be")
        with messages_to(say):
            return action() or 0
    except InputError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        return _say_what_is_missing(program, error)
    except FloatingPointError as error:
        print(f"{program}: {error}: lower --lr, or look at these examples", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 141  # what a shell gives for SIGPIPE
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            where = f"{error.filename}: {error.strerror}"
            print(f"{program}: {where}: change its permissions, or name another folder", file=sys.stderr)
            return 2
        if error.errno == errno.ENAMETOOLONG:
            name = str(error.filename or error)
            print(f"{program}: {name[:100]}{'…' * (len(name) > 100)} is too long a name for a file", file=sys.stderr)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" that holds {error.filename}" if error.filename else ""
        print(f"{program}: the disk{where} is full: what was written stays; free some space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``isod`` command; returns the exit code."""

    def run() -> int | None:
        options = build_parser().parse_args(arguments)
        try:
            with quiet(getattr(options, "quiet", False)):  # that of a command that is missing
                return options.run(options)
        except ModuleNotFoundError as error:
            return _say_what_is_missing(f"isod {options.command}", error)

    return exit_cleanly("isod", arguments, run)


if __name__ == "__main__":
    sys.exit(main())
