"""Options that set one field of a settings dataclass each, and ``--set``, which sets any of them.

A flag is a row of a table: its name, and the field that it sets. Help text and type come from the field.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isod.config.fields import settings_in
from isod.config.overrides import Assignment, parse_assignment
from isod.config.presets import PRESETS
from isod.config.settings import Preset
from isod.config.study import sections_of
from isod.errors import InputError, unknown
from isod.sampling.samplers import SAMPLERS, SamplerConfig

RUN_FLAGS = {
    "--iterations": "training.iterations",
    "--batch-size": "training.batch_size",
    "--validate-every": "training.validate_every",
    "--width": "detector.width",
    "--lr": "training.lr",
    "--lr-schedule": "training.lr_schedule",
    "--loss-normalisation": "training.loss_normalisation",
    "--lag": "training.lag",
    "--compiled": "training.compiled",
    "--decode-on-device": "training.decode_on_device",
    "--workers": "resources.decode_workers",
    "--threads": "resources.threads",
}
TRAIN_FLAGS = {"--seed": "training.seed", **RUN_FLAGS}
SWEEP_FLAGS = {
    **RUN_FLAGS,
    "--workers-per-trial": "resources.workers_per_trial",
    "--gpus-per-trial": "resources.gpus_per_trial",
}
OUT = Path("out")  # where a sweep leaves its results, and the other commands look for them
METAVARS = {int: "N", float: "X", str: "NAME"}


class CommandParser(argparse.ArgumentParser):
    """A parser, of a command or of all, that answers an unknown option with the nearest one.

    Options are not abbreviated: a sweep would take ``--seed 3``, an option of another command, for three seeds.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Raises InputError for an option that is not this command's; other words that are left over are returned."""
        options, others = super().parse_known_args(args, namespace)
        for word in others:
            if word.startswith("--"):
                known = [name for name in self._option_string_actions if name.startswith("--")]
                raise unknown(f"option of {self.prog},", word.partition("=")[0], known)
        return options, others


def examples(*lines: str) -> dict[str, Any]:
    """Return the arguments of ``add_parser`` that end a command's help with examples."""
    heading = "example:" if len(lines) == 1 else "examples:"
    return {
        "epilog": "\n  ".join([heading, *lines]),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet``, which every command has."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print results, warnings and errors only")


class Assign(argparse.Action):
    """Appends an Assignment to the option ``assignments``. Values stay text: ``override`` parses and checks them."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, field: str, switch: bool, **options: Any) -> None:
        names = list(option_strings)
        if switch:
            names += [name.replace("--", "--no-", 1) for name in option_strings]
        super().__init__(names, dest, nargs=0 if switch else None, default=(), **options)
        self._field = field
        self._switch = switch

    def __call__(self, parser: Any, options: argparse.Namespace, value: Any, option_string: str | None = None) -> None:
        where = str(option_string)
        if self._switch:
            value = str(not where.startswith("--no-"))
        else:
            where = f"{where} {value}"
        options.assignments = [*options.assignments, Assignment(self._field, value, where)]


class Set(argparse.Action):
    """Appends the Assignments of ``--set a.b=value …`` to the option ``assignments``."""

    def __call__(self, parser: Any, options: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        options.assignments = [*options.assignments, *map(parse_assignment, values)]


def add_settings(parser: argparse.ArgumentParser, flags: Mapping[str, str]) -> None:
    """Add ``--set`` and a flag for each row of the table; together they fill the option ``assignments``."""
    known = settings_in(sections_of(PRESETS["small"]))
    group = parser.add_argument_group("settings", "each overrides the preset")
    for flag, name in flags.items():
        setting = known[name]
        switch = setting.type is bool
        group.add_argument(
            flag,
            action=Assign,
            dest="assignments",
            field=name,
            switch=switch,
            metavar=None if switch else METAVARS[setting.type],
            help=f"{setting.description} ({name})".replace("%", "%%"),
        )
    group.add_argument(
        "--set",
        action=Set,
        dest="assignments",
        default=(),
        nargs="+",
        metavar="FIELD=VALUE",
        help="set any field by its dotted name, such as training.eps=1e-8; `isod settings` lists them",
    )


def add_tracking_uri(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add ``--tracking-uri``, which ``choose_tracking`` reads; ``folder`` is that of the database, in words."""
    parser.add_argument("--tracking-uri", metavar="URI",
                        help=f"MLflow's (default: MLFLOW_TRACKING_URI, else {folder})")  # fmt: skip


def add_experiment(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--experiment``, which ``choose_experiment`` reads."""
    parser.add_argument("--experiment", metavar="NAME",
                        help=f"MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else {default})")  # fmt: skip


def add_system_metrics(parser: argparse.ArgumentParser) -> None:
    """Add ``--system-metrics``."""
    parser.add_argument("--system-metrics", action="store_true",
                        help="also record the use of CPU, memory, disk, network and GPU")  # fmt: skip


def choose_tracking(options: argparse.Namespace, out: Path = OUT) -> str:
    """Return MLflow's address: the option's, else the environment's, else the database of a sweep's folder."""
    database = f"sqlite:///{out.resolve() / 'mlflow.db'}"
    return str(options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or database)


def choose_experiment(options: argparse.Namespace) -> str | None:
    """Return the experiment that the option names, else the environment's; None if neither names one."""
    return options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or None


def refuse_unread(given: Mapping[str, object], reason: str) -> None:
    """Raise InputError if one of the options has a value that nothing would read.

    Args:
        given: flag → its value; None, False or () where it was not given.
        reason: what the sentence says after the flag.
    """
    for flag, value in given.items():
        if not (value is None or value is False or value == ()):
            raise InputError(f"{flag} {reason}, or leave it out")


def choose_sampler(name: str) -> SamplerConfig:
    """Return the named sampler. Raises InputError with the nearest name."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name]


def choose_preset(name: str) -> Preset:
    """Return the named preset. Raises InputError with the nearest name."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
