"""Settings as flat records, as MLflow parameters and config.json hold them, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from isod.config.settings import RunConfig
from isod.sampling.samplers import SamplerConfig


def flatten(config: RunConfig) -> dict[str, str | int | float | bool]:
    """The run's settings under dotted names, as MLflow parameters and config.json hold them: ``training.lr`` …

    All but the sampler's source and summary, which change no run.
    """
    flat: dict[str, str | int | float | bool] = {}
    sections = asdict(config)
    del sections["sampler"]["source"], sections["sampler"]["summary"]
    for section, values in sections.items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


DEFAULTS = flatten(RunConfig(sampler=SamplerConfig(name="")))
CONTENTS = "store.contents"  # beside these: what the run's store holds, in words


def changes(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Which settings differ, as "lr was 0.1 and is 0.2, …"; empty if none does.

    A setting that an older version had not recorded is newer than it, and its default is what that version did; what
    its store held is not known, and so taken to be the same.
    """
    known = {**DEFAULTS, CONTENTS: now.get(CONTENTS)}
    newer = {name: known[name] for name in known.keys() & (now.keys() - before.keys())}
    before = {name: str(value) if isinstance(now[name], str) else value for name, value in newer.items()} | {**before}
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names)
