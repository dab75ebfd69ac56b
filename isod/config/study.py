"""A study: which samplers a sweep runs by default, under which settings; in Python or as a TOML file.

name = "floors"                       # default: the file's name
run = ["baseline", "UIS", "UIS-half"] # samplers to run; the others below run where --samplers names them
preset = "small"
seeds = 3

[training]                            # settings of every run; likewise [detector], [holdout], [resources]
iterations = 600

[samplers.UIS-half]                   # a new sampler: a named one with other settings
base = "UIS"
floor = 0.5

[samplers.UIS-lag-0]                  # UIS as it is, trained under other settings
base = "UIS"
training = { lag = 0 }
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from isod.config.overrides import Assignment, assignments_in, override, values_of
from isod.config.presets import OTHER_DETECTORS_TRAINING, PRESETS
from isod.config.settings import DetectorConfig, Preset, TrainingConfig
from isod.errors import InputError, require, unknown
from isod.sampling.samplers import SAMPLERS, SamplerConfig

SECTIONS = ("detector", "training", "holdout", "resources")  # of a preset
ONE_LENGTH = ("iterations", "validate_every")  # training settings that all runs of a sweep share
KEYS = ("name", "run", "preset", "seeds", "samplers", *SECTIONS)  # of a file
Built = TypeVar("Built")
NAME = re.compile(r"[\w.+-]+")  # names become file names and MLflow tags


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a sweep runs by default.

    Raises:
        InputError: two samplers of one name, a name that isod gives to another sampler, settings of a sampler that is
            not in the study, or a name that no file can have.
    """

    name: str  # the parent run's isod.sweep tag, and what the MLflow experiment's name begins with
    samplers: Sequence[SamplerConfig]  # names are unique: MLflow knows a run by its sampler's name and its seed
    training: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # sampler name → training settings of its own
    extra: Sequence[SamplerConfig] = ()  # run where --samplers names them
    preset: str | None = None  # None: "demo" on demo data, "small" on a store
    seeds: int | None = None  # runs per sampler; None: the preset's
    settings: Sequence[Assignment] = ()  # of every run

    def __post_init__(self) -> None:
        every = [*self.samplers, *self.extra]
        names = [sampler.name for sampler in every]
        if len(set(names)) != len(names) or not self.training.keys() <= set(names):
            raise InputError(f"study {self.name}: names repeated, or settings for others than {names}")
        for sampler in every:
            if SAMPLERS.get(sampler.name, sampler) != sampler:
                raise InputError(f"study {self.name}: {sampler.name!r} is the name of another sampler")
        for name in (self.name, *names):
            require(NAME.fullmatch(name) is not None, "a name is made of letters, digits and . _ + -", name)
        require(self.seeds is None or self.seeds >= 1, "seeds must be ≥ 1", self.seeds)
        if self.preset is not None and self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        for assignment in self.settings:
            if assignment.name.startswith("sampler."):
                raise InputError(
                    f"{assignment.where}: a sweep has several samplers: define one in a study's [samplers.NAME], "
                    f'with base = "UIS" and {assignment.name.removeprefix("sampler.")} = …'
                )
        own = {f"training.{name}" for settings in self.training.values() for name in settings}
        for name in sorted(own & {f"training.{setting}" for setting in ONE_LENGTH}):
            raise InputError(f"a sweep compares runs of one length: {name} cannot be a sampler's own")
        if "training.seed" in own | {assignment.name for assignment in self.settings}:
            raise InputError("a sweep sets training.seed of each run: choose seeds with --seeds and --first-seed")

    def choose(self, names: Sequence[str] | None) -> list[SamplerConfig]:
        """Return the samplers of these names, which may be any that isod knows; the study's own where None.

        Raises:
            InputError: an unknown name, with the nearest one, or a repeated one.
        """
        if names is None:
            return list(self.samplers)
        known = SAMPLERS | {sampler.name: sampler for sampler in (*self.samplers, *self.extra)}
        for name in names:
            if name not in known:
                raise unknown("sampler", name, known)
        require(len(set(names)) == len(names), "--samplers must name each sampler once", list(names))
        return [known[name] for name in names]


def under(
    settings: Mapping[str, Mapping[str, Any]], bases: Iterable[SamplerConfig]
) -> list[tuple[SamplerConfig, Mapping[str, Any]]]:
    """Return each sampler under each of other training settings, for a study's samplers and its ``training``.

    Args:
        settings: what a sampler's name gains → training settings: {"lag-0": {"lag": 0}}.
    """
    return [
        (replace(base, name=f"{base.name}-{suffix}"), setting) for base in bases for suffix, setting in settings.items()
    ]


def read_study(path: Path) -> Study:
    """Read a study's TOML file, as this module's docstring shows it.

    Raises:
        InputError: no such file, no TOML, an unknown key with the nearest one, or a value of the wrong type or out of
            range; the message begins with the file's name.
    """
    return read_toml(path, _study)


def read_toml(path: Path, build: Callable[[Mapping[str, Any], Path], Built]) -> Built:
    """Return what a function makes of the content of a TOML file.

    Raises:
        InputError: there is no such file, it is not TOML, or the function raised one; the message names the file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the study {path} ({error.strerror}): name a TOML file") from None
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    try:
        return build(content, path)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _study(content: Mapping[str, Any], path: Path) -> Study:
    for key in content:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    for key in ("samplers", *SECTIONS):
        require(isinstance(content.get(key, {}), Mapping), f"{key} must be a table, [{key}]", content.get(key))
    run = content.get("run")
    if not (isinstance(run, list) and run and all(isinstance(name, str) for name in run)):
        raise InputError(f'run must list the names of samplers, such as run = ["baseline", "UIS"], got {run!r}')
    for key, kind, words in (("name", str, "text"), ("preset", str, "text"), ("seeds", int, "a whole number")):
        require(type(content.get(key, kind())) is kind, f"{key} must be {words}", content.get(key))

    defined: dict[str, SamplerConfig] = {}
    training: dict[str, dict[str, Any]] = {}
    for name, table in content.get("samplers", {}).items():
        defined[name], own = _sampler(name, table, str(path))
        if own:
            training[name] = own
    known = SAMPLERS | defined
    for name in run:
        if name not in known:
            raise unknown("sampler", name, known)
    settings = assignments_in({key: content[key] for key in SECTIONS if key in content}, str(path))
    values_of(
        sections_of(PRESETS["small"]), settings
    )  # names and types; a preset and the command line may change the others
    return Study(
        name=content.get("name", path.stem),
        samplers=[known[name] for name in run],
        training=training,
        extra=tuple(sampler for name, sampler in defined.items() if name not in run),
        preset=content.get("preset"),
        seeds=content.get("seeds"),
        settings=tuple(settings),
    )


def _sampler(name: str, table: Any, where: str) -> tuple[SamplerConfig, dict[str, Any]]:
    """The sampler of [samplers.NAME], and its own training settings."""
    section = f"samplers.{name}"
    given = table.get("base") if isinstance(table, Mapping) else table
    if not (isinstance(table, Mapping) and isinstance(given, str) and given in SAMPLERS):
        error = unknown("sampler", str(given), SAMPLERS)
        raise InputError(f'[{section}] needs the named sampler that it starts from, such as base = "UIS": {error}')
    require("name" not in table, f"[{section}] has its name from the heading: leave name out", table.get("name"))
    changed = {key: value for key, value in table.items() if key not in ("base", "training")}
    base = replace(SAMPLERS[table["base"]], name=name)
    sampler = override({section: base}, assignments_in(changed, where, section))[section]
    own = f"{section}.training"
    assignments = assignments_in({own: table.get("training", {})}, where)
    values = values_of({own: TrainingConfig()}, assignments)
    override({own: TrainingConfig()}, assignments)  # rejects values out of range
    return sampler, {key.removeprefix(f"{own}."): value for key, value in values.items()}


def sections_of(preset: Preset, assignments: Iterable[Assignment] = ()) -> dict[str, Any]:
    """Return what ``--set`` and a study's tables change: the sections of a preset by name.

    Args:
        assignments: what will be assigned to them. Where that names another detector than the thesis's, the sections
            are those of other detectors (``OTHER_DETECTORS_TRAINING``).
    """
    sections = {name: getattr(preset, name) for name in SECTIONS}
    named = [str(assignment.value) for assignment in assignments if assignment.name == "detector.name"]
    if named and named[-1] != DetectorConfig.name:
        sections["training"] = replace(preset.training, **OTHER_DETECTORS_TRAINING)
    return sections
