"""``isod search``: hyperparameter search for one sampler, ending in its best settings as a study for ``isod sweep``."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from isod.cli.options import SWEEP_FLAGS, add_settings, choose_preset, examples
from isod.cli.sweep import add_places, add_source, choose_places, choose_size, experiment_prefix, print_end, publish
from isod.config.overrides import override
from isod.config.search import SearchStudy, read_search
from isod.config.study import sections_of
from isod.errors import require

logger = logging.getLogger("isod")


def add_search_parser(commands: Any) -> None:
    """Add ``search STUDY.toml`` to the commands."""
    parser = commands.add_parser(
        "search",
        help="search the settings with which one sampler trains best",
        description="Train one sampler under many settings on Ray, stop those trials that fall behind, record all in\n"
        "MLflow, and write the best settings as a study for `isod sweep`. Its runs are no comparison of samplers.",
        **examples(
            "isod search search.toml                             # on demo data",
            "isod search search.toml --store STORE --samples 32 --iterations 600",
            "isod search search.toml --store STORE --samples 32 --iterations 600 --resume",
        ),
    )
    parser.add_argument("study", type=Path, metavar="STUDY.toml",
                        help="TOML file with what is searched (isod.config.search describes it)")  # fmt: skip
    add_source(parser, None)
    parser.add_argument("--samples", type=int, metavar="N", help="trials of random or optuna (default: the study's)")
    add_places(parser, "search", "STUDY")
    add_settings(parser, SWEEP_FLAGS)
    parser.set_defaults(run=lambda options: run(read_search(options.study), options))


def run(study: SearchStudy, options: argparse.Namespace) -> int:
    """Run the search and print its best settings; 1 if a run failed or was not finished, else 0."""
    size = choose_size(options, study.preset)
    study = replace(study, settings=[*study.settings, *options.assignments])
    if options.samples is not None:
        rule = "a grid has all combinations of the listed values: leave out --samples"
        require(study.search.algorithm != "grid", rule, options.samples)
        study = replace(study, search=replace(study.search, samples=options.samples))
    preset = choose_preset(size)
    sections = {"sampler": study.sampler, **sections_of(preset, study.settings)}
    changed = override(sections, study.settings)
    sampler = changed.pop("sampler")
    used = replace(preset, **changed)
    require(study.search.scheduler == "none" or used.resources.workers_per_trial == 1,
            'a scheduler cannot stop a trial of several workers: set scheduler = "none", or --workers-per-trial to 1',
            used.resources.workers_per_trial)  # fmt: skip

    from isod.orchestration.search import Search
    from isod.orchestration.sweep import Sweep, run_sweep

    search = Search(study, preset)
    places = choose_places(options, size, used.resources, experiment_prefix(study.name))
    logger.info("search: %d trials of %s, at most %d iterations each",
                search.count, study.sampler.name, used.training.iterations)  # fmt: skip
    sweep = Sweep(
        name=study.name,
        preset=used,
        samplers=[sampler],
        seeds=1,
        first_seed=used.training.seed,
        **vars(places),
    )
    result = run_sweep(sweep, search)
    code = print_end(result, places.storage or places.out)
    if not result.finished:
        return code
    from isod.results.search import search_command

    folder, text = search_command(places.tracking_uri, result.parent_run_id, study, size, places.store, places.out)
    publish(places.tracking_uri, result.parent_run_id, folder, text)
    return code
