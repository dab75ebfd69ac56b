"""What can be set: every field of the settings dataclasses, with its dotted name, type, value and description.

A field's description is the comment behind it, or the comment lines above it, in the source of its dataclass: it is
written once, where the field is.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Setting:
    """One field that can be set."""

    name: str  # dotted: "training.lr"
    type: Any  # its type hint, evaluated
    value: Any  # what it is now
    description: str  # one line; empty where Python has no source

    @property
    def optional(self) -> bool:
        """Whether the field may be None."""
        return get_origin(self.type) in (Union, UnionType) and NoneType in get_args(self.type)

    @property
    def parts(self) -> list[Any]:
        """The types of a tuple's items; of any other field its own type, without None."""
        if get_origin(self.type) is tuple:
            return list(get_args(self.type))
        return [next(part for part in get_args(self.type) if part is not NoneType)] if self.optional else [self.type]

    @property
    def type_name(self) -> str:
        """The type in words: "a number", "text or none", "4 whole numbers"."""
        if get_origin(self.type) is tuple:
            return f"{len(self.parts)} {WORDS[self.parts[0]].removeprefix('a ')}s"
        return WORDS[self.parts[0]] + (" or none" if self.optional else "")

    @property
    def text(self) -> str:
        """The value as --set takes it."""
        if isinstance(self.value, tuple):
            return ",".join(map(str, self.value))
        return str(self.value).lower() if self.value is None or isinstance(self.value, bool) else str(self.value)


def settings_in(sections: Mapping[str, Any]) -> dict[str, Setting]:
    """Return every field of the sections by dotted name, those of nested dataclasses included.

    Args:
        sections: what a dotted name begins with → a settings dataclass: {"training": TrainingConfig()}.
    """
    found: dict[str, Setting] = {}
    for section, config in sections.items():
        kind: type = type(config)
        hints, texts = get_type_hints(kind), descriptions(kind)
        for field in fields(kind):
            name, value = f"{section}.{field.name}", getattr(config, field.name)
            if is_dataclass(value):
                found |= settings_in({name: value})
            elif field.compare:  # else it changes no run
                found[name] = Setting(name, hints[field.name], value, texts.get(field.name, ""))
    return found


@functools.cache
def descriptions(settings: type) -> dict[str, str]:
    """Return the comment of each field of a dataclass, by the field's name; empty where Python has no source."""
    try:
        source = textwrap.dedent(inspect.getsource(settings))
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    end = 0  # line on which the statement before ended
    for node in body.body:
        last = node.end_lineno or node.lineno
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = [comments[line] for line in range(end + 1, last + 1) if line in comments]
            found[node.target.id] = " ".join(lines)
        end = last
    return found
