"""One HTML page that stands alone: the headline table, the figures, and what they were made from."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

import isod
from isod.errors import InputError
from isod.results import figures
from isod.results.runs import BASELINE, HEADLINE, Runs
from isod.results.table import baseline_null, interval_text, notes, percent, printable, speedup_table
from isod.sampling.gain import ess_in_words

PER_RUN = {"sampler", "seed"}  # parameters that differ between runs by design


@dataclass(frozen=True)
class Plate:
    """A figure as the page shows it."""

    title: str
    caption: str  # one sentence: what to see
    source: str  # data: URI of the SVG
    min_width: int  # pixels below which it scrolls instead of shrinking
    max_width: int  # pixels above which it does not grow


def write_report(runs: Runs, out: Path) -> Path:
    """Write report.html, speedup.csv and speedup.json into a folder, which is made if need be.

    Returns:
        The path of report.html.
    Raises:
        InputError: the folder cannot be written.
    """
    out = Path(out)
    table = speedup_table(runs)
    page = _render(runs, table)
    try:
        out.mkdir(parents=True, exist_ok=True)
        spoken = table.astype(object)
        for column in ("speedup", "wall_clock_speedup"):
            spoken[column] = _spoken(table, column)
        spoken.to_csv(out / "speedup.csv")
        (out / "speedup.json").write_text(json.dumps(_as_json(runs, spoken), indent=2) + "\n", encoding="utf-8")
        (out / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report into {out}: {error.strerror or error}") from error
    return out / "report.html"


def headline(runs: Runs, table: pd.DataFrame) -> str:
    """The first sentence of the report: who is fastest, and by how much."""
    if BASELINE not in table.index:
        return "No baseline run has finished, so nothing can be compared yet."
    if len(table) == 1:
        return "Only the baseline has finished runs, so nothing can be compared yet."
    passed = table[table["reached"]]
    if passed.empty:
        return "No sampler surpasses the baseline's best mean mAP."
    row = passed.reset_index().sort_values("speedup", ascending=False).to_dict("records")[0]
    baseline = table.loc[[BASELINE]].to_dict("records")[0]
    interval = interval_text(row["interval_low"], row["interval_high"])
    sure = "" if interval == "n/a" else f", 95 % interval {interval}"
    sentence = (
        f"{row['sampler']} surpasses the baseline's best mAP of {baseline['best']:.3f} after {row['iterations']:.0f} "
        f"iterations instead of {baseline['iterations']:.0f}: a speed-up of {percent(row['speedup'])}{sure}."
    )
    return sentence.replace(" %", "\u00a0%").replace(" … ", "\u00a0…\u00a0")


def gain_sentence(table: pd.DataFrame) -> str:
    """Whether this data set has anything to gain: the effective sample size of the scores over N (spec §11)."""
    ess = table["ess"].drop(BASELINE, errors="ignore").dropna()
    if ess.empty:
        return ""
    listed = ", ".join(f"{name} {value:.2f}" for name, value in ess.items())
    return f"Effective sample size of the scores over N at the end: {listed}; {ess_in_words(float(ess.min()))}."


def _render(runs: Runs, table: pd.DataFrame) -> str:
    template = resources.files("isod.results").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    cells = printable(table)
    params = {str(c).removeprefix("params."): set(runs.runs[c]) for c in runs.runs if str(c).startswith("params.")}
    settings = {name: values.pop() for name, values in sorted(params.items()) if len(values) == 1}
    varying = sorted(set(params) - set(settings) - PER_RUN)
    return environment.from_string(template).render(
        title=f"{runs.sweep}: which sampler learns fastest",
        runs=runs,
        headline=headline(runs, table),
        gain=gain_sentence(table),
        columns=list(cells.columns),
        rows=cells.to_dict("records"),
        notes=[n for n in notes(runs, table) if not n.startswith("DEMO")],
        plates=_plates(runs, table),
        left_out=runs.left_out.to_dict("records"),
        settings={name: value for name, value in settings.items() if name not in PER_RUN},
        varying=varying,
        facts=_facts(runs),
        version=isod.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _plates(runs: Runs, table: pd.DataFrame) -> list[Plate]:
    passed = list(table.index[table["reached"]]) if "reached" in table else []
    who = f"{', '.join(passed)} {'pass' if len(passed) > 1 else 'passes'} it" if passed else "no sampler passes it"
    plates = [
        _plate(
            figures.map_figure(runs),
            "mAP and speed-up",
            "Mean over seeds, shaded ±1 standard deviation; the dashed line is the baseline's best, the diamond where "
            f"it is reached, and each bar the iterations saved on the way there: {who}.",
        )
    ]
    if not runs.class_names:
        return plates
    rarest = runs.class_names[-1]
    plates += [
        _plate(figures.size_figure(runs), "mAP by object size",
               "Look for a sampler that gains on one size by giving up another; all panels share a scale."),
        _plate(figures.class_by_size_figure(runs), "AP by class and size",
               "Moving average (0.8) over the thin raw mean, with the number of objects in brackets: curves over few "
               "objects jump by themselves."),
        _plate(figures.rarest_class_figure(runs), f"The rarest class: {rarest}",
               "Whether drawing by importance reaches what the data holds little of."),
        _plate(figures.binary_figure(runs), "Binary AP",
               "The class ignored: where this rises and AP does not, objects are found but misnamed."),
        _plate(figures.false_positive_figure(runs), "False positives",
               "Detections shown to people that match nothing: the price a sampler pays when it neglects background; "
               "number of objects in brackets."),
    ]  # fmt: skip
    return plates


def _plate(figure: Figure, title: str, caption: str) -> Plate:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    source = "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
    width = figure.get_figwidth()  # inches
    return Plate(title, caption, source, min_width=round(57 * width), max_width=round(125 * width))


def _facts(runs: Runs) -> dict[str, str]:
    """What the numbers were made from, for whoever wants to make them again."""
    store = runs.runs["params.store"].iloc[0] if "params.store" in runs.runs else "not recorded"
    seeds = runs.runs.groupby("sampler")["seed"].apply(lambda s: f"{s.name}: {', '.join(map(str, sorted(s)))}")
    return {
        "Experiment": runs.experiment,
        "Sweep": f"{runs.sweep} ({runs.sweep_id})",
        "Tracking URI": runs.tracking_uri,
        "Store": str(store) + (" (DEMO data)" if runs.is_demo else ""),
        "Seeds": "; ".join(seeds[s] for s in runs.samplers),
        "Commit": runs.tags.get("isod.commit", "not recorded"),
        "Machine": runs.tags.get("isod.machine", "not recorded"),
        "First run started": f"{runs.runs['start'].min():%Y-%m-%d %H:%M UTC}",
    }


def _spoken(table: pd.DataFrame, column: str) -> list[float | str | None]:
    """Numbers, with "not reached" spelled out; empty for the baseline and where there is no baseline."""
    return [
        value if reached else None if name == BASELINE or BASELINE not in table.index else "not reached"
        for name, value, reached in zip(table.index, table[column], table["reached"], strict=True)
    ]


def _as_json(runs: Runs, table: pd.DataFrame) -> dict[str, object]:
    """What is in the table, as strict JSON: null for what does not exist."""
    null = baseline_null(runs)

    def plain(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    records = table.reset_index().to_dict("records")
    return {
        "experiment": runs.experiment,
        "sweep": runs.sweep,
        "sweep_run_id": runs.sweep_id,
        "demo": runs.is_demo,
        "metric": HEADLINE,
        "null_interval": [null.low, null.high] if null else None,
        "samplers": [{str(k): plain(v) for k, v in record.items()} for record in records],
        "left_out": runs.left_out.to_dict("records"),
    }
