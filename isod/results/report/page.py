"""The report as one HTML page without other files: speed-up table, figures, guard, and what they were made from."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
import pandas as pd

import isod
from isod.errors import InputError
from isod.files import folder_lock
from isod.processes import WorkerPool
from isod.results.report.drawing import Gallery, start_drawing
from isod.results.report.picture import picture_of
from isod.results.report.prediction_figures import best_model_predictions
from isod.results.report.sections import ReportFigure
from isod.results.statistics.best import best_model, predict_commands
from isod.results.statistics.consistency import TOP, consistency_table
from isod.results.statistics.guard import guard_sentence, guard_table
from isod.results.statistics.speedup_table import is_flat, is_short_of_pairs, speedup_table
from isod.results.statistics.text_table import (
    LEVEL,
    SPEED,
    as_written,
    footnotes,
    interval_text,
    percent,
    text_cells,
)
from isod.sampling.catalogue import STRATEGIES
from isod.tracking.examples import load_examples
from isod.tracking.runs import Runs
from isod.vocabulary import BASELINE, COMMIT_TAG, HEADLINE, MACHINE_TAG, ess_in_words

PER_RUN = {"sampler", "seed"}  # parameters that differ between runs by design

STATISTICS = ("draw_count", "mean_importance", "margin")  # of single examples, that the figures need


def write_report(runs: Runs, out: Path, processes: int = 1) -> Path:
    """Write report.html, speedup.csv, guard.csv, consistency.csv, and speedup.json with all three, into a folder.

    Args:
        processes: that draw the figures. With more than one a script must call this under
            ``if __name__ == "__main__":``, as the others import it.
    Returns:
        The path of report.html.
    Raises:
        InputError: the folder cannot be written, or a run's statistics of examples cannot be read.
    """
    out = Path(out)
    with WorkerPool(processes - 1) if processes > 1 else nullcontext() as pool:
        if pool is not None:
            start_drawing(pool)
        table, examples = speedup_table(runs), load_examples(runs, STATISTICS)
        with Gallery(runs, examples, list(table.index[table["reached"]]), pool) as gallery:
            guard, consistency = guard_table(runs), consistency_table(examples)
            page = _render(runs, table, guard, consistency, examples.attrs["missing"], gallery)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with folder_lock(out):
            as_written(table).to_csv(out / "speedup.csv")
            guard.to_csv(out / "guard.csv", index=False)
            consistency.to_csv(out / "consistency.csv")
            (out / "speedup.json").write_text(
                json.dumps(_as_json(runs, as_written(table), guard, consistency), indent=2) + "\n", encoding="utf-8"
            )
            (out / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report into {out}: {error.strerror or error}") from error
    return out / "report.html"


def headline(runs: Runs, table: pd.DataFrame) -> str:
    """Return the first sentence of the report: which sampler is fastest, and by how much."""
    if BASELINE not in table.index:
        return "No baseline run has finished, so nothing can be compared yet."
    if is_flat(table):
        return "The baseline's mean mAP never rises above 0, so there is no speed-up."
    if len(table) == 1:
        return "Only the baseline has finished runs, so nothing can be compared yet."
    passed = table[table["reached"]]
    if passed.empty:
        return "No sampler surpasses the baseline's best mean mAP."
    row = passed.reset_index().sort_values("speedup", ascending=False).to_dict("records")[0]
    interval = interval_text(row["interval_low"], row["interval_high"])
    sure = "" if interval == "n/a" else f", 95 % interval {interval}"
    if row["pairs"] and is_short_of_pairs(table)[row["sampler"]]:
        sure += f", over the {row['pairs']} {'seed' if row['pairs'] == 1 else 'seeds'} that both have"
    sentence = (
        f"{row['sampler']} surpasses the baseline's best mAP of {row['baseline_best']:.3f} after "
        f"{row['iterations']:.0f} iterations instead of {row['baseline_iterations']:.0f}: a speed-up of "
        f"{percent(row['speedup'])}{sure}."
    )
    return sentence.replace(" %", "\u00a0%").replace(" … ", "\u00a0…\u00a0")


def gain_sentence(table: pd.DataFrame, strategies: Mapping[str, str]) -> str:
    """Return what each sampler's effective sample size over N says about the gain to expect on this data (spec §11).

    Args:
        strategies: of the samplers, by name. Samplers that do not draw in proportion to scores (ranks, epochs) are left
            out: their effective sample size hardly depends on the scores.
    """
    ess = table["ess"].drop(BASELINE, errors="ignore").dropna()
    rows = [STRATEGIES.get(strategies.get(str(name), "proportional")) for name in ess.index]
    ess = ess[[row is not None and row.draws_in_proportion for row in rows]]
    alike: dict[str, list[str]] = {}
    for name, value in ess.items():
        alike.setdefault(ess_in_words(float(value)), []).append(f"{name} {value:.2f}")
    if not alike:
        return ""
    parts = "; ".join(f"{', '.join(names)}, {words}" for words, names in alike.items())
    return f"Is there anything to gain? Effective sample size of the scores over N at the end: {parts}."


def _render(
    runs: Runs,
    table: pd.DataFrame,
    guard: pd.DataFrame,
    consistency: pd.DataFrame,
    without_statistics: list[str],
    gallery: Gallery,
) -> str:
    template = resources.files("isod.results.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    cells = text_cells(table)
    params = {str(c).removeprefix("params."): set(runs.runs[c]) for c in runs.runs if str(c).startswith("params.")}
    settings = {name: values.pop() for name, values in sorted(params.items()) if len(values) == 1}
    varying = sorted(set(params) - set(settings) - PER_RUN)
    best = best_model(runs)
    predictions, pictures = best_model_predictions(runs, best), gallery.pictures()
    if isinstance(predictions, ReportFigure):
        pictures[predictions] = picture_of(predictions.draw())
    return environment.from_string(template).render(
        title=f"{runs.sweep}: which sampler learns fastest",
        runs=runs,
        headline=headline(runs, table),
        gain=gain_sentence(table.drop(index=list(runs.scoreless), errors="ignore"), runs.strategies),
        speed=cells[[*SPEED]].to_dict("records"),
        level=cells[[*LEVEL]].rename(columns={"final": f"final {HEADLINE}"}).to_dict("records"),
        footnotes=[note for note in footnotes(runs, table) if not note.startswith("DEMO")],
        lead=gallery.lead,
        sections=gallery.sections,
        pictures=pictures,
        triage=_triage_commands(runs),
        best=best,
        predict=predict_commands(runs, best),
        predictions=predictions,
        guard_sentence=guard_sentence(guard),
        guard=_guard_cells(guard),
        consistency=_consistency_cells(consistency),
        without_statistics=without_statistics,
        left_out=runs.left_out.to_dict("records"),
        settings={name: value for name, value in settings.items() if name not in PER_RUN},
        varying=varying,
        facts=_facts(runs),
        version=isod.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _guard_cells(guard: pd.DataFrame) -> list[dict[str, str]]:
    """Return the guard as text; the column "worse" is "worse", "" or, without a verdict, "n/a"."""
    return [
        {
            "sampler": row["sampler"],
            "class": row["class"],
            "size": row["size"],
            "objects": f"{row['ground_truth']}",
            "baseline": f"{row['baseline']:.3f}"
            + ("" if math.isnan(row["baseline_sd"]) else f" ± {row['baseline_sd']:.3f}"),
            "here": f"{row['other']:.3f}",
            "difference": f"{row['difference']:+.3f}".replace("-", "−"),
            "tolerated": "n/a" if math.isnan(row["tolerance"]) else f"−{row['tolerance']:.3f}",
            "worse": "worse" if row["worse"] else "n/a" if math.isnan(row["tolerance"]) else "",
        }
        for row in guard.to_dict("records")
    ]


def _consistency_cells(consistency: pd.DataFrame) -> list[dict[str, str]]:
    def number(value: float, form: str) -> str:
        return "n/a" if math.isnan(value) else format(value, form)

    return [
        {
            "sampler": str(row["sampler"]),
            "runs": str(row["runs"]),
            "rank correlation": number(row["importance"], ".2f"),
            "lowest … highest": "n/a"
            if math.isnan(row["importance"])
            else f"{row['importance_low']:.2f} … {row['importance_high']:.2f}",
            f"top {TOP} shared": number(100 * row["top_shared"], ".0f") + " %" * (not math.isnan(row["top_shared"])),
            "draws of the most drawn": f"{row['most_drawn']:.0f}",
            "drawn uniformly": f"{row['uniform']:.1f}",
        }
        for row in consistency.reset_index().to_dict("records")
    ]


def _triage_commands(runs: Runs) -> list[str]:
    """Return the commands that show the most drawn examples (thesis C.1 to C.3), for a run of each scoring sampler."""
    first = runs.runs.sort_values("seed").groupby("sampler").head(1)
    run_of = {row.sampler: str(row.Index) for row in first.itertuples()}
    store = str(runs.runs["params.store"].iloc[0]) if "params.store" in runs.runs else "STORE"
    return [
        f"isod triage --tracking-uri {shlex.quote(runs.store_of(run_of[sampler]))} --run {run_of[sampler]} "
        f"--store {shlex.quote(store)} --out {shlex.quote(f'triage-{sampler}')}"
        for sampler in runs.samplers
        if sampler not in runs.scoreless
    ]


def _facts(runs: Runs) -> dict[str, str]:
    """Return what the numbers were made from, to reproduce them."""
    store = runs.runs["params.store"].iloc[0] if "params.store" in runs.runs else "not recorded"
    seeds = runs.runs.groupby("sampler")["seed"].apply(lambda s: f"{s.name}: {', '.join(map(str, sorted(s)))}")
    return {
        "Experiment": runs.experiment,
        "Sweep": f"{runs.sweep} ({runs.sweep_id})",
        "Tracking URI": runs.tracking_uri,
        "Store": str(store) + (" (DEMO data)" if runs.is_demo else ""),
        "Seeds": "; ".join(seeds[s] for s in runs.samplers),
        "Commit": runs.tags.get(COMMIT_TAG, "not recorded"),
        "Machine": runs.tags.get(MACHINE_TAG, "not recorded"),
        "First run started": f"{runs.runs['start'].min():%Y-%m-%d %H:%M UTC}",
    }


def _as_json(runs: Runs, table: pd.DataFrame, guard: pd.DataFrame, consistency: pd.DataFrame) -> dict[str, object]:
    """Return the tables as strict JSON: null for what does not exist."""

    def plain(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def records(frame: pd.DataFrame) -> list[dict[str, object]]:
        return [{str(k): plain(v) for k, v in record.items()} for record in frame.to_dict("records")]

    return {
        "experiment": runs.experiment,
        "sweep": runs.sweep,
        "sweep_run_id": runs.sweep_id,
        "demo": runs.is_demo,
        "metric": HEADLINE,
        "samplers": records(table.reset_index()),
        "guard": records(guard),
        "consistency": records(consistency.reset_index()),
        "left_out": runs.left_out.to_dict("records"),
    }
