"""An evaluation as an HTML page without other files, and as text for the terminal."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2

import isod
from isod.detector.saved import ModelDescription
from isod.inference.evaluation import COCO_METRICS, Evaluation
from isod.results.evaluation.figures import (
    MAX_CURVES,
    confusion_figure,
    curve_classes,
    precision_recall_figure,
)
from isod.results.report.fonts import missing_font
from isod.results.report.picture import picture_of
from isod.vocabulary import HEADLINE, STRATA, metric_key


def ap_table(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return AP by class and size, a row for each class, then their mean and the class-blind one; all as text."""
    metrics = evaluation.metrics

    def row(title: str, name: str, class_name: str | None) -> dict[str, str]:
        cells = {"class": title}
        for stratum, size in enumerate(STRATA):
            cells["AP" if stratum == 0 else f"AP {size}"] = number(metrics[metric_key(name, stratum, class_name)])
        objects = [metrics[metric_key("GT", 0, c)] for c in evaluation.class_names if class_name in (None, c)]
        false = [metrics[metric_key("FP", 0, c)] for c in evaluation.class_names if class_name in (None, c)]
        return cells | {"objects": f"{sum(objects):.0f}", "false positives": f"{sum(false):.0f}"}

    rows = [row(name, "AP", name) for name in evaluation.class_names]
    return [*rows, row("mean (mAP)", HEADLINE, None), row("class ignored", "binary_AP", None)]


def number(value: float) -> str:
    """Return a share with three digits; a dash without ground truth."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def text_table(rows: list[dict[str, str]]) -> str:
    """Return rows of cells as lines of text."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def write_page(evaluation: Evaluation, description: ModelDescription, model: str, out: Path) -> Path:
    """Write evaluation.html into a folder and return its path. Raises OSError if it cannot be written."""
    template = resources.files("isod.results.evaluation").joinpath("evaluation.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    drawn = curve_classes(evaluation)
    run = description.run
    page = environment.from_string(template).render(
        evaluation=evaluation,
        model=model,
        table=ap_table(evaluation),
        coco=[(name, number(evaluation.metrics[name])) for name in COCO_METRICS],
        headline=number(evaluation.metrics[HEADLINE]),
        curves=picture_of(precision_recall_figure(evaluation)) if drawn else None,
        left_out=sum(evaluation.confusion[1:].sum(axis=1) > 0) - len(drawn),
        most=MAX_CURVES,
        confusion=picture_of(confusion_figure(evaluation)),
        font=missing_font(evaluation.class_names),
        demo=evaluation.data.demo or description.demo,
        facts={
            "Model": model,
            "Detector": description.detector.name,
            "Trained with": ", ".join(f"{key} {value}" for key, value in run.items()) or "not recorded",
            "Commit of the training": description.commit,
            "Data": evaluation.data.name,
            "Frames": f"{evaluation.images}, {len(evaluation.broken.reasons)} more could not be read",
            "Preparation": ", ".join(
                f"{name} {value}" for name, value in description.preparation.items() if value is not None
            ) or "none",
        },
        version=isod.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    path = out / "evaluation.html"
    path.write_text(page, encoding="utf-8")
    return path
