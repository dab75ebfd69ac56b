"""A search: which settings of one sampler's run are varied, how they are chosen, and when a trial is stopped.

name = "rates"                        # default: the file's name
sampler = "UIS"                       # what every trial trains
preset = "small"

[search]
algorithm = "random"                  # or grid, optuna
samples = 16
scheduler = "asha"                    # or median, none

[settings]                            # what is searched, by dotted name: a range, or a list of values
training.lr = { min = 1e-4, max = 1e-1, log = true }
sampler.floor = [0.0, 0.1, 0.5]

[training]                            # settings of every trial; likewise [detector], [holdout], [resources]
iterations = 600
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from isod.config.fields import settings_in
from isod.config.overrides import Assignment, assignments_in, override, values_of
from isod.config.presets import PRESETS
from isod.config.settings import Preset, RunConfig
from isod.config.study import NAME, SECTIONS, read_toml, sections_of
from isod.errors import InputError, require, unknown
from isod.sampling.samplers import SAMPLERS, SamplerConfig
from isod.vocabulary import BASELINE

KEYS = ("name", "sampler", "preset", "search", "settings", *SECTIONS)  # of a file
ALGORITHMS = ("random", "grid", "optuna")
SCHEDULERS = ("asha", "median", "none")
RANGE = ("min", "max", "log")  # keys of a range
CORNERS = 64  # combinations of the ends of all ranges that are checked before anything starts
# Settings that every trial shares, and why
FIXED = {
    "training.seed": "the best seed is luck, and no setting",
    "training.iterations": "trials of different lengths cannot be compared",
    "training.validate_every": "trials are compared at their validations",
}


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How settings are chosen and trials are stopped."""

    algorithm: str = "random"  # random; grid: every combination of the listed values; optuna: TPE (extra search)
    samples: int = 16  # random, optuna: how many trials
    seed: int = 0  # random, optuna: of the choice of settings
    scheduler: str = "asha"  # asha: successive halving; median: the median stopping rule; none stops no trial
    grace: int = 0  # iterations that every trial trains at least; 0 for a ninth of training.iterations
    reduction: int = 3  # asha: about one of so many trials passes each rung; a rung is so many times the one before

    def __post_init__(self) -> None:
        require(self.algorithm in ALGORITHMS, f"search algorithm must be one of {', '.join(ALGORITHMS)}",
                self.algorithm)  # fmt: skip
        require(self.scheduler in SCHEDULERS, f"search scheduler must be one of {', '.join(SCHEDULERS)}",
                self.scheduler)  # fmt: skip
        require(self.samples >= 1, "search samples must be ≥ 1", self.samples)
        require(self.seed >= 0, "search seed must be ≥ 0", self.seed)
        require(self.grace >= 0, "search grace must be ≥ 0", self.grace)
        require(self.reduction >= 2, "search reduction must be ≥ 2", self.reduction)

    def grace_of(self, iterations: int, validate_every: int) -> int:
        """Return the iterations that every trial of so many trains at least.

        Raises:
            InputError: no validation lies between them and the end, so that the scheduler could stop nothing.
        """
        grace = self.grace or max(validate_every, iterations // 9)
        last = last_decision(iterations, validate_every)
        if self.scheduler != "none" and grace > last:
            raise InputError(
                f"every trial trains {grace} iterations, and the last validation before the end of a run is at {last} "
                f"(training.iterations is {iterations}, training.validate_every {validate_every}), so nothing could be "
                'stopped: set search.grace or training.validate_every lower, or scheduler = "none"'
            )
        return grace


def last_decision(iterations: int, validate_every: int) -> int:
    """Return the iteration of the last validation at which a trial can still be stopped; 0 if there is none."""
    return (iterations - 1) // validate_every * validate_every


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One setting that is searched: listed values, or a range with both its ends."""

    name: str  # dotted
    where: str  # it was written, for messages
    values: tuple[Any, ...] = ()  # the listed ones; empty for a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # whether the logarithm is drawn uniformly
    whole: bool = False  # whether the range holds whole numbers only

    def __str__(self) -> str:
        if self.values:
            return ", ".join(map(str, self.values))
        return f"{self.low} … {self.high}" + ", log" * self.log

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked before anything starts: all that are listed, or both ends."""
        return self.values or (self.low, self.high)

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a value at random; of whole numbers each is as likely, or as its share of the logarithm."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        # a whole number stands for all that rounds to it
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = float(np.exp(rng.uniform(np.log(low), np.log(high))) if self.log else rng.uniform(low, high))
        value = min(max(float(f"{value:.4g}"), self.low), self.high)  # digits that a person can type
        return round(value) if self.whole else value


@dataclass(frozen=True, kw_only=True)
class SearchStudy:
    """A search of one sampler's settings.

    Raises:
        InputError: a name that no file can have, no setting to search, one that all trials share, or one that is both
            searched and fixed.
    """

    name: str  # the parent run's isod.search tag, and what the MLflow experiment's name begins with
    sampler: SamplerConfig
    dimensions: Sequence[Dimension]
    search: SearchConfig = SearchConfig()
    preset: str | None = None  # None: "demo" on demo data, "small" on a store
    settings: Sequence[Assignment] = ()  # of every trial

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.name) is not None, "a name is made of letters, digits and . _ + -", self.name)
        if self.preset is not None and self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        if not self.dimensions:
            raise InputError("[settings] must name what is searched, such as training.lr = { min = 1e-4, max = 1e-2 }")
        fixed = {assignment.name: assignment.where for assignment in self.settings}
        for dimension in self.dimensions:
            if dimension.name in fixed:
                raise InputError(
                    f"{dimension.where}: {fixed[dimension.name]} gives {dimension.name} one value: leave that out, or "
                    "do not search it"
                )
            if self.search.algorithm == "grid" and not dimension.values:
                raise InputError(f"{dimension.where}: a grid needs the values in a list, such as [1e-4, 1e-3], got a "
                                 "range")  # fmt: skip

    @property
    def varied(self) -> list[str]:
        """The names of the settings that are searched."""
        return [dimension.name for dimension in self.dimensions]

    @property
    def record(self) -> dict[str, str | int]:
        """What MLflow's parent run says of the search. More samples of one search are the same search."""
        search = {f"search.{name}": value for name, value in asdict(self.search).items() if name != "samples"}
        return search | {f"search.settings.{dimension.name}": str(dimension) for dimension in self.dimensions}

    def points(self) -> list[dict[str, Any]]:
        """Return the values of every trial, by setting; none with optuna, which chooses as results come."""
        if self.search.algorithm == "optuna":
            return []
        if self.search.algorithm == "grid":
            every = itertools.product(*(dimension.values for dimension in self.dimensions))
            return [dict(zip(self.varied, values, strict=True)) for values in every]
        rng = np.random.default_rng(self.search.seed)
        return [
            {dimension.name: dimension.draw(rng) for dimension in self.dimensions} for _ in range(self.search.samples)
        ]

    def config(self, preset: Preset, values: Mapping[str, Any], number: int | None = None) -> RunConfig:
        """Return a trial's run.

        Args:
            values: of the searched settings, by name; those that it lacks are the preset's.
            number: of the trial, which its sampler's name ends with; None leaves the name.
        Raises:
            InputError: a value, or a combination, that a settings dataclass rejects.
        """
        assignments = [*self.settings, *self._assignments(values)]
        sections = {"sampler": self.sampler, **sections_of(preset, assignments)}
        changed = override(sections, assignments)
        del changed["resources"]
        if number is not None:
            changed["sampler"] = replace(changed["sampler"], name=f"{self.sampler.name}-{number:03}")
        return RunConfig(**changed)

    def trials(self, preset: Preset) -> list[RunConfig]:
        """Return the run of every trial that ``points`` gives."""
        return [self.config(preset, values, number) for number, values in enumerate(self.points(), 1)]

    def corners(self, preset: Preset) -> list[RunConfig]:
        """Return runs with each end of each range, each listed value, and the first combinations of them.

        Raises:
            InputError: a settings dataclass rejects one.
        """
        first = {dimension.name: dimension.ends[0] for dimension in self.dimensions}
        single = [{**first, dimension.name: end} for dimension in self.dimensions for end in dimension.ends]
        combined = itertools.product(*(dimension.ends for dimension in self.dimensions))
        points = [dict(zip(self.varied, values, strict=True)) for values in itertools.islice(combined, CORNERS)]
        return [self.config(preset, point) for point in (*single, *points)]

    def values_in(self, record: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the searched values in the flat record of a run, all of it text; None if it lacks one."""
        if not set(self.varied) <= record.keys():
            return None
        return values_of(_sections(), [Assignment(name, record[name], "MLflow") for name in self.varied])

    def best_study(self, values: Mapping[str, Any], preset: str, comment: str) -> str:
        """Return the TOML file of a study that `isod sweep` takes: the baseline and the sampler, both under the fixed
        settings and these values.

        Args:
            preset: which the trials had.
            comment: lines to begin with.
        """
        chosen = {a.name: a for a in [*self.settings, *self._assignments(values)]}
        typed = values_of({**_sections(), "resources": PRESETS["small"].resources}, chosen.values())
        own = {name: value for name, value in typed.items() if name.startswith("sampler.")}
        name = f"{self.sampler.name}-best" if own else self.sampler.name
        run = [name] if self.sampler.name == BASELINE else [BASELINE, name]
        lines = [f"# {line}" for line in comment.splitlines()]
        lines += [f"name = {_toml(f'{self.name}-best')}", f"run = {_toml(run)}", f"preset = {_toml(preset)}"]
        for section in SECTIONS:
            inside = {key: value for key, value in typed.items() if key.startswith(f"{section}.")}
            inside.pop("training.seed", None)  # a sweep has its own
            if inside:
                lines += ["", f"[{section}]"]
                lines += [f"{key.removeprefix(f'{section}.')} = {_toml(value)}" for key, value in inside.items()]
        if own:
            lines += ["", f"[samplers.{_toml(name)}]", f"base = {_toml(self.sampler.name)}"]
            lines += [f"{key.removeprefix('sampler.')} = {_toml(value)}" for key, value in own.items()]
        return "\n".join(lines) + "\n"

    def _assignments(self, values: Mapping[str, Any]) -> list[Assignment]:
        return [
            Assignment(d.name, _plain(values[d.name]), d.where, text=False) for d in self.dimensions if d.name in values
        ]


def read_search(path: Path) -> SearchStudy:
    """Read a search's TOML file, as this module's docstring shows it.

    Raises:
        InputError: no such file, no TOML, an unknown key or setting with the nearest one, or a value of the wrong type
            or out of range; the message begins with the file's name.
    """
    return read_toml(path, _search)


def _search(content: Mapping[str, Any], path: Path) -> SearchStudy:
    for key in content:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    for key in ("search", "settings", *SECTIONS):
        require(isinstance(content.get(key, {}), Mapping), f"{key} must be a table, [{key}]", content.get(key))
    for key in ("name", "sampler", "preset"):
        require(isinstance(content.get(key, ""), str), f"{key} must be text", content.get(key))
    wanted = 'sampler must name what every trial trains, such as sampler = "UIS"'
    if "sampler" not in content:
        raise InputError(wanted)
    sampler = content["sampler"]
    if sampler not in SAMPLERS:
        raise InputError(f"{wanted}: {unknown('sampler', sampler, SAMPLERS)}")
    table = content.get("search", {})
    known = [field.name for field in fields(SearchConfig)]
    for key in table:
        if key not in known:
            raise unknown("key of [search]", key, known)
    search = override({"search": SearchConfig()}, assignments_in({"search": table}, str(path)))["search"]
    for key, read in (
        ("samples", search.algorithm != "grid"),
        ("seed", search.algorithm != "grid"),
        ("reduction", search.scheduler == "asha"),
        ("grace", search.scheduler != "none"),
    ):
        if key in table and not read:
            raise InputError(
                f"search.{key} says nothing to algorithm {search.algorithm!r} with scheduler {search.scheduler!r}: "
                "leave it out"
            )
    settings = assignments_in({key: content[key] for key in SECTIONS if key in content}, str(path))
    values_of(sections_of(PRESETS["small"]), settings)  # names and types; a preset may change the others
    return SearchStudy(
        name=content.get("name", path.stem),
        sampler=SAMPLERS[sampler],
        dimensions=tuple(_dimensions(content.get("settings", {}), str(path))),
        search=search,
        preset=content.get("preset"),
        settings=tuple(settings),
    )


def _sections() -> dict[str, Any]:
    """Return what a searched setting's name begins with."""
    sections = sections_of(PRESETS["small"])
    del sections["resources"]
    return {"sampler": SamplerConfig(name=""), **sections}


def _dimensions(table: Mapping[str, Any], path: str, section: str = "") -> Iterator[Dimension]:
    """Yield the dimensions of [settings], whose names may be dotted or in quotes."""
    for key, value in table.items():
        name = f"{section}.{key}" if section else key
        if isinstance(value, Mapping) and not set(RANGE) & value.keys():
            yield from _dimensions(value, path, name)
        else:
            yield _dimension(name, value, f"{path}: [settings] {name}")


def _dimension(name: str, value: object, where: str) -> Dimension:
    known = settings_in(_sections())
    if name in FIXED:
        raise InputError(f"{where}: every trial has the same one, as {FIXED[name]}")
    if name.partition(".")[0] == "resources" or name == "sampler.name":
        raise InputError(f"{where}: this is no setting of what is learnt, so there is nothing to search")
    if isinstance(value, list):
        require(len(value) > 0, f"{where}: the list of values must not be empty", value)
        values = tuple(_typed(name, item, where) for item in value)
        require(len(set(values)) == len(values), f"{where}: a value is listed twice", value)
        return Dimension(name=name, where=where, values=values)
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: write a range, {{ min = 1e-4, max = 1e-2, log = true }}, or a list of values, got "
                         f"{value!r}")  # fmt: skip
    for key in value:
        if key not in RANGE:
            raise InputError(f"{where}: {unknown('key of a range', key, RANGE)}")
    require({"min", "max"} <= value.keys(), f"{where}: a range needs min and max", dict(value))
    low, high, log = _typed(name, value["min"], where), _typed(name, value["max"], where), value.get("log", False)
    kinds = known[name].parts
    require(kinds in ([int], [float]), f"{where}: a range is for numbers, list the values instead", dict(value))
    require(-math.inf < low < high < math.inf, f"{where}: min must be below max, and both finite", dict(value))
    require(type(log) is bool, f"{where}: log must be true or false", log)
    require(not log or low > 0, f"{where}: with log = true, min must be > 0", low)
    return Dimension(name=name, where=where, low=low, high=high, log=log, whole=kinds == [int])


def _typed(name: str, value: object, where: str) -> Any:
    """Return a value of TOML as its setting's type."""
    return values_of(_sections(), [Assignment(name, value, where, text=False)])[name]


def _plain(value: object) -> object:
    """Return a setting's value as TOML has it."""
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def _toml(value: object) -> str:
    """Return a value as TOML writes it: JSON's form of text, numbers, booleans and lists is TOML's too."""
    return json.dumps(_plain(value), ensure_ascii=False)
