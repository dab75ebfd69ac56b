"""The contact sheet of triage as an HTML page without other files, as a CSV for annotators, and for the terminal."""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2

import isod
from isod.errors import InputError
from isod.files import folder_lock
from isod.inference.marks import ENLARGED, FONT
from isod.results.triage.sheet import NONE_SEEN, Card, Sheet

MEANINGS = {
    "overlooked": "an object predicted where nothing is annotated",
    "swapped": "an object predicted where one of another class is annotated",
    "badly placed": "the annotated class predicted, with a box that overlaps the annotated one by less than half",
    NONE_SEEN: "the predictions contradict no label",
}


def write_sheet(sheet: Sheet, out: Path) -> Path:
    """Write triage.html and triage.csv into a folder; return the path of the page.

    Raises:
        InputError: the folder cannot be written, or another process writes to it.
    """
    page = render(sheet)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with folder_lock(out):
            with (out / "triage.csv").open("w", newline="", encoding="utf-8") as file:
                lines = [_csv_line(sheet, card) for card in sheet.cards]
                writer = csv.DictWriter(file, list(lines[0]))
                writer.writeheader()
                writer.writerows(lines)
            (out / "triage.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the sheet into {out}: {error.strerror or error}") from error
    return out / "triage.html"


def _csv_line(sheet: Sheet, card: Card) -> dict[str, object]:
    """Return one row of triage.csv; the columns of the guess are empty where there is none."""
    first = card.findings[0] if card.findings else None
    x0, y0, x1, y1 = (round(value, 1) for value in first.box) if first else ("",) * 4
    line: dict[str, object] = {
        "rank": card.rank,
        "index": card.index,
        "frame_id": _as_text(card.frame_id),
        "tile_column": "" if card.tile is None else card.tile[0],
        "tile_row": "" if card.tile is None else card.tile[1],
        "draw_count": card.draw_count,
        "mean_importance": f"{card.mean_importance:.6g}",
        "margin": "" if math.isnan(card.margin) else f"{card.margin:.6g}",
        "guess": "" if sheet.threshold is None else card.guess,
        "score": f"{first.score:.3f}" if first else "",
        "predicted_class": _as_text(first.predicted_class) if first else "",
        "annotated_class": _as_text(first.annotated_class) if first else "",
        "x0": x0, "y0": y0, "x1": x1, "y1": y1,
        "all_guesses": _as_text("; ".join(f"{f.problem}: {f.words}" for f in card.findings)),
    }  # fmt: skip
    if sheet.demo:
        line["demo_planted_error"] = "unknown" if card.faults is None else _as_text("; ".join(card.faults))
    return line


def _as_text(value: str) -> str:
    """Return a name from the data as a cell that no spreadsheet reads as a formula."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def summary(sheet: Sheet) -> str:
    """Return what is printed on the terminal."""
    lines = [lead(sheet)]
    if sheet.threshold is None:
        lines.append("The run has no model, so there are no predictions and no guesses.")
    else:
        width = max(len(name) for name, _, _ in sheet.tally)
        known = sheet.wrong_share is not None
        lines.append(f"{'guess'.ljust(width)}  examples" + ("  of them with a planted error" if known else ""))
        lines += [f"{name.ljust(width)}  {cards:>8}" + (f"  {wrong:>28}" if known else "")
                  for name, cards, wrong in sheet.tally]  # fmt: skip
    return "\n".join([*lines, *precision_lines(sheet), *moved_lines(sheet)])


def lead(sheet: Sheet) -> str:
    """Return the sentence that says which examples these are."""
    of = (
        f"{sheet.drawn} drawn examples ({sheet.examples} in all)"
        if sheet.drawn < sheet.examples
        else f"{sheet.examples} examples"
    )
    equal = "; all were drawn equally often, so these have the highest mean importance" if sheet.equally_drawn else ""
    return f"The {len(sheet.cards)} most drawn of {of} in {sheet.run}{equal}" + ", demo data" * sheet.demo


def precision_lines(sheet: Sheet) -> list[str]:
    """Return the share of the most drawn examples with a known label error, and that of all; empty if none is known."""
    if sheet.wrong_share is None:
        return []
    return [
        f"Precision at {k} on the planted label errors (demo data): {percent(share)} by draw count, "
        f"{percent(sheet.wrong_share)} at random"
        for k, share in sheet.precision
    ]


def moved_lines(sheet: Sheet) -> list[str]:
    """Return a note if the store is not at the place that the run names."""
    if sheet.trained_on in (None, sheet.store):
        return []
    return [f"The run trained on {sheet.trained_on}; these examples are from {sheet.store}, which has the same frames"]


def percent(share: float) -> str:
    """Return a share as 12 % or 4.5 %."""
    return f"{100 * share:.3g}\u00a0%"


def render(sheet: Sheet) -> str:
    """Return the page."""
    template = resources.files("isod.results.triage").joinpath("triage.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"short": short, "number": lambda value: "" if math.isnan(value) else repr(float(value))}
    return environment.from_string(template).render(
        sheet=sheet,
        lead=lead(sheet),
        precision=precision_lines(sheet),
        moved=moved_lines(sheet),
        meanings=MEANINGS,
        font=FONT,
        enlarged=ENLARGED,
        version=isod.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def short(value: float) -> str:
    """Return a value with three digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−")
