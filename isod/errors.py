"""The one error that is meant for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input: one clear sentence that says which file or setting, what rule it breaks, and what to do.

    The command line prints it without a stack trace and exits with code 2. Nothing that was written before it is lost.
    """


def one_line(error: BaseException, limit: int = 300) -> str:
    """What somebody else's error says, as a part of a sentence: its first line, cut if it is long."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text if len(text) <= limit else text[:limit] + "…"


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is none of the known ones: the nearest first, then all."""
    names = list(known)
    near = get_close_matches(name, names, n=1) or [n for n in names if n.lower() == name.lower()]
    guess = f" did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {what} {name!r};{guess} choose one of {', '.join(names)}")


def require(condition: bool, rule: str, value: object) -> None:
    """Raise InputError("<rule>, got <value>") unless the condition holds."""
    if not condition:
        raise InputError(f"{rule}, got {value!r}")
