"""The speed-up table on runs small enough to work out by hand."""

import math

import pandas as pd
import pytest

from isod.errors import InputError
from isod.results import format_table, load_runs, speedup_table
from isod.results.report.page import headline
from isod.results.statistics.text_table import TableText, as_written, difference_text, footnotes, percent, text_cells
from tests.tracking.made_runs import made_runs
from tests.tracking.mlflow_store import Store

GRID = (100, 200, 300, 400)


def run(*values, metric="mAP"):
    return {"mAP": dict(zip(GRID, values if metric == "mAP" else [0.1] * 4, strict=True))} | {
        metric: {step: v for step, v in zip(GRID, values, strict=True) if not math.isnan(v)}
    }


@pytest.fixture
def runs():
    """Baseline best at 400; UIS passes its best at 200 in every seed; LIS never, but two of its three seeds get to the
    target."""
    return made_runs(
        {("baseline", s): run(0.10, 0.20, 0.30, 0.40 + 0.01 * s) for s in range(3)}
        | {("UIS", s): run(0.10, 0.50, 0.50, 0.50) for s in range(3)}
        | {("LIS", s): run(0.10, 0.10, 0.40, 0.20) for s in (0, 1)}
        | {("LIS", 2): run(0.10, 0.10, 0.10, 0.20)}
    )


def test_by_hand(runs):
    table = speedup_table(runs)
    assert list(table.index) == ["baseline", "LIS", "UIS"]
    baseline, lis, uis = (table.loc[s] for s in table.index)
    assert (uis["speedup"], uis["interval_low"], uis["interval_high"]) == (1.0, 1.0, 1.0)  # 400 / 200 − 1
    assert baseline["target"] == 0.40  # the lowest best of its seeds, 0.40, 0.41, 0.42
    assert (baseline["target_seeds"], baseline["target_iterations"]) == (3, 400)
    assert (uis["target_speedup"], uis["target_iterations"]) == (1.0, 200)
    assert (lis["target_seeds"], lis["target_iterations"]) == (2, 300)  # 300, 300, never
    assert lis["target_speedup"] == pytest.approx(400 / 300 - 1)
    assert not lis["reached"]
    assert math.isnan(lis["speedup"])
    assert math.isnan(uis["target_low"])  # three seeds are too few for the interval of a median
    assert lis["difference"] == pytest.approx(0.20 - 0.41)
    # Paired differences −0.20, −0.21, −0.22: sd 0.01, and 4.3027 · 0.01/√3 to either side
    assert (lis["difference_low"], lis["difference_high"]) == pytest.approx((-0.23484, -0.18516), abs=1e-5)
    assert (lis["beats"], uis["beats"]) == (0.0, 1.0)
    assert (uis["chance"], lis["chance"]) == (1 / 8, 1.0)
    assert math.isnan(baseline["difference"])


def test_not_reached_is_said_everywhere():
    never = made_runs(
        {("baseline", s): run(0.1, 0.2, 0.3, 0.4) for s in range(5)}
        | {("UIS", s): run(0.1, 0.1, 0.1, 0.1) for s in range(5)}
    )
    kept = as_written(speedup_table(never))
    for column in (
        "speedup", "wall_clock_speedup", "interval_low", "interval_high", "null_low", "null_high",
        "target_speedup", "target_iterations", "target_low", "target_high",
    ):  # fmt: skip
        assert kept.loc["UIS", column] == "not reached", column
    assert kept.loc["baseline", "speedup"] is None
    assert kept.loc["UIS", "iterations"] is None
    shown = text_cells(speedup_table(never)).set_index("sampler").loc["UIS"]
    assert (shown["speed-up"], shown["95 % interval"], shown["to target"]) == ("not reached",) * 3
    assert "Noise alone, baseline against itself: not reached in 95 % of studies." in footnotes(
        never, speedup_table(never)
    )


def test_a_baseline_run_that_finds_nothing_leaves_no_target():
    """Its best is 0, which every run would reach at its first validation."""
    values = {("baseline", s): run(0.1, 0.2, 0.3, 0.4) for s in (0, 1)} | {("baseline", 2): run(0.0, 0.0, 0.0, 0.0)}
    found = made_runs(values | {("UIS", s): run(0.2, 0.3, 0.4, 0.5) for s in range(3)})
    table = speedup_table(found)
    assert text_cells(table).set_index("sampler").loc["UIS", "to target"] == "–"
    kept = as_written(table)[["target", "target_iterations", "target_speedup", "target_low", "target_high"]]
    assert kept.isna().all(axis=None)
    assert "To target: there is no target, as a baseline run never has a mAP above 0." in footnotes(found, table)


def test_that_a_hold_out_model_takes_time_is_told(tmp_path):
    store = Store(tmp_path)
    parent = store.sweep()
    for sampler in ("baseline", "UIS", "LIS-RHO"):
        store.run(parent, sampler, 0, params={"sampler.holdout": sampler == "LIS-RHO"})
    found = load_runs(store.uri, store.experiment)
    said = [line for line in footnotes(found, speedup_table(found)) if "hold-out" in line]
    assert said == ["Iterations and seconds leave out the training of the hold-out model: LIS-RHO."]


def test_one_seed_leaves_intervals_not_available(runs):
    one = made_runs(
        {("baseline", 0): run(0.1, 0.2, 0.3, 0.4), ("UIS", 0): run(0.1, 0.5, 0.5, 0.5)},
    )
    row = text_cells(speedup_table(one)).set_index("sampler").loc["UIS"]
    assert row["speed-up"] == "+100 %"
    assert row["95 % interval"] == row["chance"] == "n/a"
    assert row["difference (95 %)"] == "+0.100 (n/a)"
    assert as_written(speedup_table(one)).loc["UIS", "interval_low"] is None
    assert math.isnan(speedup_table(one).loc["UIS", "null_high"])
    assert "±" not in format_table(one)


def test_seeds_that_only_one_has_do_not_pair():
    runs = made_runs(
        {("baseline", s): run(0.1, 0.2, 0.3, 0.4) for s in (0, 1, 2)}
        | {("UIS", s): run(0.1, 0.2, 0.3, 0.5 if s == 2 else 0.6) for s in (2, 3, 4)}
    )
    row = speedup_table(runs).loc["UIS"]
    assert row["seeds"] == 3
    assert row["difference"] == pytest.approx(0.1)  # of seed 2
    assert math.isnan(row["interval_low"])
    assert math.isnan(row["chance"])
    assert row["beats"] == 1


def test_seconds_are_processor_time_where_every_run_has_it():
    """UIS ran beside others, which doubled its wall-clock time and none of its processor time."""

    def timed(values, wall, cpu):
        seconds = {"time/seconds": {step: wall * step for step in GRID}}
        return run(*values) | seconds | ({"time/cpu_seconds": {step: cpu * step for step in GRID}} if cpu else {})

    def table(cpu):
        runs = {("baseline", s): timed((0.1, 0.2, 0.3, 0.4), 1.0, 0.9) for s in (0, 1)}
        runs |= {("UIS", s): timed((0.2, 0.5, 0.5, 0.5), 2.0, cpu if s else 0.9) for s in (0, 1)}
        made = made_runs(runs)
        found = speedup_table(made)
        (said,) = (line for line in footnotes(made, found) if line.startswith("In time, s/run: "))
        return found.loc["UIS", "wall_clock_speedup"], found.loc["UIS", "seconds_per_run"], said

    gain, seconds, said = table(0.9)
    assert (gain, seconds) == (pytest.approx(1.0), pytest.approx(0.9 * 400))
    assert "processor time" in said
    gain, seconds, said = table(None)  # one run is of a GPU, or of an older isod
    assert (gain, seconds) == (pytest.approx(0.0), pytest.approx(2.0 * 400))
    assert "other runs on the same machine make longer" in said


def test_a_sampler_is_compared_over_the_seeds_that_the_baseline_has_too():
    """The baseline's seeds 0 and 1 are lucky ones, which UIS has not run."""
    clock, slow = ({step: step / per for step in GRID} for per in (10, 5))
    runs = made_runs(
        {("baseline", s): run(0.2, 0.2, 0.3, 0.4) | {"time/seconds": slow} for s in (0, 1)}
        | {("baseline", s): run(0.1, 0.2, 0.2, 0.2) | {"time/seconds": clock} for s in (2, 3)}
        | {("UIS", s): run(0.1, 0.1, 0.3, 0.3) | {"time/seconds": clock} for s in (2, 3)}
        | {("LIS", 9): run(0.1, 0.1, 0.5, 0.5)}
    )
    table = speedup_table(runs)
    uis, lis = table.loc["UIS"], table.loc["LIS"]
    # Their mean of seeds 2 and 3: the baseline's best is 0.2, first at 200; UIS is above it at 300.
    assert (uis["baseline_best"], uis["baseline_iterations"], uis["iterations"]) == (pytest.approx(0.2), 200, 300)
    assert uis["speedup"] == uis["wall_clock_speedup"] == pytest.approx(200 / 300 - 1)
    assert uis["target_speedup"] == pytest.approx(200 / 300 - 1)  # to 0.2; of all four baseline runs from 150
    # No seed in common: of all runs, whose best is 0.3, at 400
    assert (lis["baseline_best"], lis["speedup"]) == (pytest.approx(0.3), pytest.approx(400 / 300 - 1))
    assert table.loc["baseline", "best"] == pytest.approx(0.3)
    assert (uis["pairs"], lis["pairs"]) == (2, 0)
    some = "A sampler with other seeds than the baseline is compared over the seeds that both have."
    none = "A sampler that shares no seed with the baseline is compared over all runs of each."
    said = footnotes(runs, table)
    assert {some, none} <= set(said)
    # Noise by the number of seeds: of UIS's pairs, of LIS without any
    assert table["null_seeds"].to_dict() == {"baseline": 4, "UIS": 2, "LIS": 1}
    at = said.index('Noise alone, baseline against itself, in 95 % of studies: from "not reached" to')
    noise = {sampler: percent(high) for sampler, high in table["null_high"].items()}
    assert said[at + 1] == f"  {noise['UIS']} with 2 seeds, {noise['LIS']} with 1 seed"
    assert headline(runs, table).startswith("LIS surpasses the baseline's best mAP of 0.300 after 300 iterations")
    uis_only = table.drop("LIS").assign(reached=True)
    assert headline(runs, uis_only.loc[["baseline", "UIS"]]).endswith(", over the 2 seeds that both have.")
    same = made_runs({key: run(0.1, 0.2, 0.3, 0.4) for key in [("baseline", 2), ("UIS", 2)]})
    assert not {some, none} & set(footnotes(same, speedup_table(same)))


def test_a_baseline_that_is_flat_in_the_seeds_of_both_is_not_surpassed():
    runs = made_runs(
        {("baseline", s): run(0.1, 0.2, 0.3, 0.4) for s in (0, 1)}
        | {("baseline", 2): run(0.0, 0.0, 0.0, 0.0), ("UIS", 2): run(0.0, 0.0, 0.1, 0.1)}
    )
    table = speedup_table(runs)
    assert not table.loc["UIS", "reached"]
    assert math.isnan(table.loc["UIS", "speedup"])
    assert text_cells(table).set_index("sampler").loc["UIS", "speed-up"] == "–"
    assert as_written(table).loc["UIS", "speedup"] is None


def test_any_metric_and_gaps_in_it():
    nan = math.nan
    runs = made_runs(
        {("baseline", s): run(nan, 0.2, 0.3, nan, metric="AP/Cat") for s in range(3)}
        | {("UIS", s): run(0.1, 0.4, 0.4, 0.4, metric="AP/Cat") for s in range(3)}
        | {("LIS", s): run(nan, nan, nan, nan, metric="AP/Cat") for s in range(3)}
    )
    table = speedup_table(runs, "AP/Cat")
    assert list(table.index) == ["baseline", "UIS"]
    assert table.loc["UIS", "speedup"] == 300 / 200 - 1
    assert math.isnan(table.loc["baseline", "final"])  # no value at the last validation
    assert math.isnan(table.loc["UIS", "difference"])
    assert math.isnan(table.loc["UIS", "beats"])
    assert "final AP/Cat" in format_table(runs, metric="AP/Cat")
    with pytest.raises(InputError, match="no finished run logged 'AP/Dog'; the runs have: AP/Cat, mAP"):
        format_table(runs, metric="AP/Dog")


def test_text_fits(runs):
    for columns in (100, 80, 60):
        lines = format_table(runs, columns=columns).splitlines()
        assert max(map(len, lines[:11])) <= columns
    assert max(map(len, format_table(runs).splitlines())) <= 100
    assert difference_text(0.0131, -0.0021, 0.0283) == "+0.013 (−0.002 … +0.028)"
    assert difference_text(math.nan, math.nan, math.nan) == "–"


def test_a_baseline_that_never_rises_above_0_has_nothing_to_be_surpassed():
    """Its "best", 0, would be "reached" at the first validation, and who finds the objects later would be slower."""
    curves = {("baseline", s): {"mAP": {100: 0.5, 200: 0.5}, "AP/Cat": {100: 0.0, 200: 0.0}} for s in range(3)}
    curves |= {("UIS", s): {"mAP": {100: 0.5, 200: 0.5}, "AP/Cat": {100: 0.0, 200: 0.3}} for s in range(3)}
    runs = made_runs(curves)
    row = speedup_table(runs, "AP/Cat").loc["UIS"]
    assert not row["reached"]
    assert row[["speedup", "interval_low", "chance", "target_speedup"]].isna().all()
    assert row["difference"] == pytest.approx(0.3)
    assert row["final"] == pytest.approx(0.3)
    text = format_table(runs, metric="AP/Cat")
    assert "The baseline's mean AP/Cat never rises above 0, so there is no speed-up." in text
    assert "not reached" not in text
    assert "%" not in text.replace("95 %", "")
    assert as_written(speedup_table(runs, "AP/Cat")).loc["UIS", "speedup"] is None


def test_html_is_escaped():
    """Names come from studies that anybody may have written."""
    text = TableText("text", [pd.DataFrame({"sampler": ["<script>"], "a & b": ["1"]})], ["less < more", "<b>"])
    html = text._repr_html_()
    assert text == "text"
    assert "<script>" not in html
    assert "<b>" not in html
    for shown in ("&lt;script&gt;", "a &amp; b", "less &lt; more", "&lt;b&gt;"):
        assert shown in html
