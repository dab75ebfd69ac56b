"""Things that have a name in one of isod's dicts, or that somebody else's package provides."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from isod.errors import InputError, one_line, unknown

T = TypeVar("T")


def is_outside(name: str) -> bool:
    """Whether a name is that of somebody else's function or class, ``package.module:function``."""
    return ":" in name


def resolve(what: str, name: str, known: Mapping[str, T]) -> T | Any:
    """Return the entry of ``known``, or the attribute of a module that ``package.module:attribute`` names.

    Args:
        what: the kind of thing, for messages: "heuristic".
    Raises:
        InputError: no such entry, with the nearest name; or the module or its attribute does not exist.
    """
    if name in known:
        return known[name]
    if not is_outside(name):
        raise unknown(what, name, known)
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"{what} {name!r} cannot be imported ({one_line(error)}): name it package.module:function, and make sure "
            "that Python finds the package"
        ) from None
