"""Assignments to settings by dotted name, ``training.lr=3e-4``, from the command line or a TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_origin

from isod.config.fields import Setting, settings_in
from isod.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Assignment:
    """A value for one setting, and where it was written."""

    name: str  # dotted: "training.lr"
    value: object  # text from the command line, which is parsed, or a value of TOML
    where: str  # for messages: "--set training.lr=3e-4", "study.toml"
    text: bool = True  # whether the value is text to parse


def parse_assignment(text: str) -> Assignment:
    """Read "section.field=value", as ``--set`` takes it. Raises InputError if there is no "=" in it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: write section.field=value, such as --set training.lr=3e-4")
    return Assignment(name.strip(), value.strip(), f"--set {text}")


def assignments_in(table: Mapping[str, Any], where: str, section: str = "") -> list[Assignment]:
    """Return the assignments that nested TOML tables make: {"training": {"lr": 3e-4}} assigns to training.lr."""
    found: list[Assignment] = []
    for key, value in table.items():
        name = f"{section}.{key}" if section else key
        if isinstance(value, Mapping):
            found += assignments_in(value, where, name)
        else:
            found.append(Assignment(name, value, where, text=False))
    return found


def override(sections: Mapping[str, T], assignments: Iterable[Assignment]) -> dict[str, T]:
    """Return the sections with the assigned values; of several values for one setting the last one counts.

    Args:
        sections: what a dotted name begins with → a settings dataclass, which may hold others.
    Raises:
        InputError: no such setting, with the nearest one; a value of the wrong type; a value, or a combination of
            values, that the dataclass rejects. The message says where the value was written.
    """
    chosen = {assignment.name: assignment for assignment in assignments}
    values = values_of(sections, chosen.values())
    return {name: _rebuilt(config, name, values, chosen) for name, config in sections.items()}


def values_of(sections: Mapping[str, Any], assignments: Iterable[Assignment]) -> dict[str, Any]:
    """Return the value of each assignment, of its setting's type, by dotted name. Raises InputError as ``override``."""
    known = settings_in(sections)
    values: dict[str, Any] = {}
    for assignment in assignments:
        if assignment.name not in known:
            raise _unknown(assignment, known)
        values[assignment.name] = _converted(assignment, known[assignment.name])
    return values


def replaced(config: T, values: Mapping[str, Any]) -> T:
    """Return the dataclass with these values, by name; a dotted name is one of a dataclass that it holds."""
    own = {name: value for name, value in values.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name in values.keys() - own.keys():
        section, _, rest = name.partition(".")
        inner.setdefault(section, {})[rest] = values[name]
    own |= {section: replaced(getattr(config, section), changes) for section, changes in inner.items()}
    return replace(config, **own)  # type: ignore[type-var]


def _rebuilt(config: Any, section: str, values: Mapping[str, Any], chosen: Mapping[str, Assignment]) -> Any:
    """The dataclass with its values, and itself if it has none; its own checks reject a wrong one."""
    changes: dict[str, Any] = {}
    for field in fields(config):
        name, before = f"{section}.{field.name}", getattr(config, field.name)
        if name in values:
            changes[field.name] = values[name]
        elif is_dataclass(before) and (after := _rebuilt(before, name, values, chosen)) is not before:
            changes[field.name] = after
    try:
        return replace(config, **changes) if changes else config
    except InputError as error:
        assigned = [name for name in changes if f"{section}.{name}" in chosen]
        named = [name for name in assigned if re.search(rf"\b{name}\b", str(error))]
        places = dict.fromkeys(chosen[f"{section}.{name}"].where for name in named or assigned)
        raise InputError(f"{', '.join(places)}: {error}") from None


def _unknown(assignment: Assignment, known: Mapping[str, Setting]) -> InputError:
    """The error for a name that is no setting: the nearest one, or a field of the section that it names."""
    name, where = assignment.name, assignment.where
    inside = [setting for setting in known if setting.startswith(f"{name}.")]
    if inside:
        return InputError(f"{where}: {name} is a section: set one of its fields, such as {inside[0]}")
    near = [setting for setting in known if setting.rpartition(".")[2] == name.rpartition(".")[2]]
    near = get_close_matches(name, near or known, n=1, cutoff=0.0)
    return InputError(
        f"{where}: unknown setting {name!r}; did you mean {near[0]!r}? `isod settings` lists every setting"
    )


def _converted(assignment: Assignment, setting: Setting) -> Any:
    """The assigned value as the setting's type. Raises InputError if it is of another type."""
    value = assignment.value
    if setting.optional and isinstance(value, str) and value.lower() == "none":
        return None
    read = _parsed if assignment.text else _checked
    try:
        if get_origin(setting.type) is not tuple:
            return read(value, setting.parts[0])
        items = str(value).strip("()[] ").split(",") if assignment.text else value
        if not isinstance(items, list):
            raise ValueError
        return tuple(read(item, part) for item, part in zip(items, setting.parts, strict=True))
    except ValueError:
        example = f", such as {setting.text}" if get_origin(setting.type) is tuple else ""
        raise InputError(
            f"{assignment.where}: {setting.name} must be {setting.type_name}{example}, got {value!r}"
        ) from None


def _parsed(text: Any, kind: type) -> Any:
    """Text as int, float, bool or str. Raises ValueError if it says no such value."""
    if kind is not bool:
        return kind(text)
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _checked(value: object, kind: type) -> Any:
    """A value of TOML as int, float, bool or str; an int is a float too. Raises ValueError if it is of another type."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError
    return value
