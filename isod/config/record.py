"""Settings as flat records, as MLflow parameters and config.json hold them, and what differs between two of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from isod.config.settings import RunConfig
from isod.sampling.samplers import SamplerConfig

Scalar = str | int | float | bool
ONE_TEXT = ("holdout.detector",)  # sections that older versions recorded as the text of a dict


def flatten(config: RunConfig) -> dict[str, Scalar]:
    """Return the run's settings by dotted name: ``training.lr``, ``holdout.detector.width`` …

    The sampler's source and summary are left out: they change no run. A tuple, or None, becomes text.
    """
    sections = asdict(config)
    del sections["sampler"]["source"], sections["sampler"]["summary"]
    return dict(_flat("", sections))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value if isinstance(value, Scalar) else str(value)


DEFAULTS = flatten(RunConfig(sampler=SamplerConfig(name="")))
# settings that the thesis's detector does not read; versions that lack them had no other
OF_OTHER_DETECTORS = ("backbone", "pyramid_channels", "anchor_scale", "proposals")
CONTENTS = "store.contents"  # beside these: what the run's store holds, in words


def current(record: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Return a record of any version with the names of this version.

    Older versions recorded ``holdout.detector`` as the text of a dict. Its values become ``holdout.detector.width`` …,
    all of them as text. A text that is no dict is kept as it is.

    Args:
        prefix: what every name begins with: ``params.``, say.
    """
    found = dict(record)
    for section in (prefix + name for name in ONE_TEXT):
        try:
            values = ast.literal_eval(found[section])
        except (LookupError, ValueError, SyntaxError):
            continue
        if isinstance(values, dict):
            del found[section]
            found |= {name: str(value) for name, value in _flat(f"{section}.", values)}
    return found


def changes(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Return which settings differ, as "lr was 0.1 and is 0.2, …"; empty if none does.

    A setting that an older version did not record is newer than that version, and its default is what that version did.
    What the store held then is not known, and taken to be the same; so is what only other detectors read.
    """
    same = {name: now[name] for name in now if name == CONTENTS or name.rpartition(".")[2] in OF_OTHER_DETECTORS}
    known = {**DEFAULTS, **same}
    newer = {name: known[name] for name in known.keys() & (now.keys() - before.keys())}
    before = newer | current(before)
    names = sorted(name for name in before.keys() | now.keys() if not _same(before.get(name), now.get(name)))
    return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names)


def _same(before: object, now: object) -> bool:
    """Whether two recorded values are equal, where one of them may be text."""
    return before == now or (isinstance(before, str) != isinstance(now, str) and str(before) == str(now))
