"""``isod samplers``: the samplers that have a name."""

from __future__ import annotations

import argparse
from typing import Any

from isod.cli.options import examples
from isod.sampling.samplers import SAMPLERS, SamplerConfig

DRAWS = {  # strategy → what it does with the score; a strategy that is not here is named
    "sequential": "Draws every example once per epoch, in random order",
    "proportional": "Draws in proportion to {score}",
    "rejection": "Accepts or rejects proposed examples by {score}",
    "uniform_rejection": "Accepts or rejects uniformly proposed examples by {score}",
    "shifted": "Draws in proportion to how far {score} is above its minimum",
    "decayed": "Draws in proportion to {score}, which fades into the mean with age",
    "rank": "Draws by the rank of {score}, exponentially",
    "linear_rank": "Draws by the rank of {score}, linearly",
    "self_paced": "Draws uniformly among the lowest values of {score}, and later among all",
    "prune": "Skips some examples below the mean of {score} each epoch and weights the others up",
    "replace": "Draws once per epoch, with the highest values of {score} in place of the lowest",
}
SCORES = {  # heuristic → its score, where that is not the heuristic's name
    "error": "classification and localisation error",
    "uncertainty_as_printed": "uncertainty of eq. 4.5 as printed",
    "asymmetric_uncertainty": "uncertainty, higher where the prediction is wrong,",
    "background_aware": "uncertainty, confident false positives included,",
    "bounded_error": "error in [0, 1]",
    "error_vector_norm": "norm of the error vector",
    "gradient_norm": "bound of the gradient norm",
    "margin": "softplus of the negative margin",
}
HISTORIES = {  # what the table makes of an example's scores, where it is not the latest one
    "momentum": "the moving average of ",
    "mean": "the mean over the run of ",
    "variance": "the variance over the run of ",
    "closeness": "the closeness to 1/2 of ",
    "forgetting": "the number of changes from right to wrong by ",
}


def line(sampler: SamplerConfig) -> str:
    """Return what the sampler does in one sentence, and its source."""
    score = "the " + SCORES.get(sampler.heuristic or "", (sampler.heuristic or "score").replace("_", " "))
    if sampler.heuristic:
        score = HISTORIES.get(sampler.history, "") + score
        if sampler.class_weight == 0 or sampler.box_weight == 0:
            score += " of the boxes alone" if sampler.class_weight == 0 else " of the classes alone"
        elif sampler.class_weight != sampler.box_weight:
            score += f" with the boxes at weight {sampler.box_weight / sampler.class_weight:g}"
        if sampler.holdout:
            score += " minus the hold-out model's"
    drawn = DRAWS.get(sampler.strategy, f"Draws by strategy {sampler.strategy} of {{score}}").format(score=score)
    if sampler.floor:
        drawn = "Draws uniformly" if sampler.floor == 1 else f"{drawn}, {sampler.floor:.0%} of it uniformly"
    if sampler.weight_exponent:
        drawn += "; weights the loss against the bias of drawing"
    return f"{drawn}. Source: {sampler.source}."


def add_samplers_parser(commands: Any) -> None:
    """Add ``samplers`` to the commands."""
    commands.add_parser(
        "samplers",
        help="list the named samplers",
        description="List the named samplers: heuristic, reduction and strategy of each, what it does, and its source.",
        **examples("isod samplers"),
    ).set_defaults(run=samplers)


def samplers(options: argparse.Namespace) -> None:
    """Print two lines for each sampler: its parts, and what it does."""
    rows = [("sampler", "heuristic", "reduction", "strategy")]
    for sampler in SAMPLERS.values():
        parts = (sampler.heuristic, sampler.reduction) if sampler.heuristic else ("–", "–")
        rows.append((sampler.name, *parts, sampler.strategy))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["what it does, and its source", *map(line, SAMPLERS.values())]
    for row, text in zip(rows, lines, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(f"    {text}")
