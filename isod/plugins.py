"""Things that have a name in one of isod's dicts, or that somebody else's package provides."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from isod.errors import InputError, one_line, unknown
from isod.extras import missing


def is_outside(name: str) -> bool:
    """Whether a name is that of somebody else's function or class, ``package.module:function``."""
    return ":" in name


def resolve(what: str, name: str, known: Mapping[str, str]) -> Any:
    """Import the function or class that a name stands for.

    Args:
        what: the kind of thing, for messages: "heuristic".
        name: a key of ``known``, or ``package.module:attribute``.
        known: where each of isod's own is found, ``package.module:attribute`` too.
    Raises:
        InputError: no such name, with the nearest one; the module or its attribute does not exist; or a package is
            missing, with the extra that brings it.
    """
    if name not in known and not is_outside(name):
        raise unknown(what, name, known)
    module, _, attribute = known.get(name, name).partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        reason = missing(f"{what} {name!r}", error)
        raise InputError(reason or _unimportable(what, name, error)) from None
    except Exception as error:  # whatever the module does as it is imported
        raise InputError(_unimportable(what, name, error)) from None


def _unimportable(what: str, name: str, error: Exception) -> str:
    return (
        f"{what} {name!r} cannot be imported ({one_line(error)}): name it package.module:function, and make sure that "
        "Python finds the package"
    )
