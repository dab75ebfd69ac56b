"""From a real MLflow store to runs, tables, figures and the report."""

import base64
import json
import math
import re
import socket
from dataclasses import replace
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.figure import Figure

from isod.cli.main import main
from isod.errors import InputError
from isod.results import format_table, load_runs, results_command, save_runs, saved_runs, speedup_table, write_report
from isod.results.report import curve_figures
from isod.results.report.page import gain_sentence, headline
from isod.results.report.style import LOOKS, look_of
from tests.tracking.full_sweep import write_full_sweep
from tests.tracking.mlflow_store import GRID, SPEED, Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def store(folder):
    """A demo sweep of four samplers × three seeds, with one failed and one running."""
    store = Store(folder)
    store.run(store.sweep("earlier", start=500), "baseline", 0, grid=GRID[:2])
    parent = store.sweep(demo=True)
    for sampler in SPEED:
        for seed in range(3):
            store.run(parent, sampler, seed, grid=GRID[::2])
    store.run(parent, "LIS-RB", 0, status="FAILED", grid=GRID[:1])
    store.run(parent, "UIS-RB", 1, status="RUNNING", grid=GRID[:1])
    return store


@pytest.fixture(scope="module")
def runs(store):
    return load_runs(store.uri, store.experiment)


@pytest.fixture
def another(folder, request):
    """An experiment of the test's own in the same store, which takes seconds to create."""
    return Store(folder, experiment=request.node.name)


def only_map(value):
    return lambda sampler, seed, step: {"mAP": value * step}


def test_saved_runs_are_the_runs(runs, tmp_path):
    save_runs(runs, tmp_path / "saved")
    again = saved_runs(tmp_path / "saved")
    pd.testing.assert_frame_equal(speedup_table(again), speedup_table(runs), check_exact=True)
    pd.testing.assert_frame_equal(again.left_out, runs.left_out)
    assert (again.samplers, again.class_names, again.is_demo) == (runs.samplers, runs.class_names, True)
    # No folder and no user of this machine: the store is at /data/store, the database in a temporary folder
    assert (again.tracking_uri, set(again.runs["params.store"])) == ("mlflow.db", {"store"})
    assert again.tags == {"isod.sweep": "thesis_grid", "isod.machine": "2 cores <no GPU>", "isod.demo": "true",
                          "isod.commit": "abc1234"}  # fmt: skip
    kept = runs.runs.assign(**{"params.sampler.subset": "/home/somebody/keep/random/keep.csv"})
    save_runs(replace(runs, runs=kept), tmp_path / "of_a_part")
    assert set(saved_runs(tmp_path / "of_a_part").runs["params.sampler.subset"]) == {"random/keep.csv"}
    save_runs(replace(runs, tracking_uri="https://admin:secret@10.0.0.1:5000"), tmp_path / "from_server")
    assert saved_runs(tmp_path / "from_server").tracking_uri == "https"
    (tmp_path / "saved" / "curves.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"saved holds no saved runs \(runs.parquet, curves.parquet\)"):
        saved_runs(tmp_path / "saved")
    with pytest.raises(InputError, match="none holds no saved runs"):
        saved_runs(tmp_path / "none")


def test_runs_of_the_latest_sweep(runs, store):
    assert runs.sweep == "thesis_grid"
    assert runs.samplers == ["baseline", "LIS", "UIS", "UIS-IR"]
    assert len(runs.runs) == 12
    assert runs.is_demo
    assert runs.class_names == ["Vehicle", "Pedestrian", "Animal"]
    assert runs.runs["params.batch_size"].unique().tolist() == ["64"]
    assert set(zip(runs.left_out["sampler"], runs.left_out["status"], strict=True)) == {
        ("LIS-RB", "FAILED"),
        ("UIS-RB", "RUNNING"),
    }
    curve = runs.curve("mAP", "UIS")
    assert list(curve.index) == list(GRID[::2])
    assert list(curve.columns) == [0, 1, 2]
    assert runs.mean_curve("mAP", "UIS").iloc[-1] == pytest.approx(curve.iloc[-1].mean())
    assert math.isnan(runs.last("AP_large/Animal"))
    earlier = load_runs(store.uri, store.experiment, sweep=sweep_id(store, "earlier"))
    assert len(earlier.runs) == 1


def sweep_id(store, name):
    found = store.client.search_runs([store.experiment_id], filter_string=f"tags.`isod.sweep` = '{name}'")
    return found[0].info.run_id


def test_speedup_table(runs):
    table = speedup_table(runs)
    assert list(table.index) == runs.samplers
    assert table["seeds"].tolist() == [3, 3, 3, 3]
    assert not table.loc["LIS", "reached"]
    assert math.isnan(table.loc["LIS", "speedup"])
    # The baseline is best at the last validation, 1100; UIS learns twice as fast and passes at 700: +57 %.
    # One of its iterations takes 0.13 s instead of 0.11 s.
    assert table.loc["baseline", "iterations"] == 1100
    assert table.loc["UIS", "iterations"] == 700
    assert table.loc["UIS", "speedup"] == pytest.approx(1100 / 700 - 1)
    assert table.loc["UIS", "wall_clock_speedup"] == pytest.approx(1100 * 0.11 / (700 * 0.13) - 1)
    assert table.loc["UIS", "interval_low"] <= table.loc["UIS", "speedup"] <= table.loc["UIS", "interval_high"]
    assert table.loc["UIS", "ess"] == pytest.approx(0.43)
    assert math.isnan(table.loc["baseline", "ess"])
    final = runs.curve("mAP", "UIS").iloc[-1]
    assert (table.loc["UIS", "final"], table.loc["UIS", "final_sd"]) == pytest.approx((final.mean(), final.std()))
    assert speedup_table(runs, "AP_large/Animal").empty  # no ground truth, no rows
    assert speedup_table(runs, "AP/Animal").loc["UIS", "reached"]


def test_text_fits_a_terminal(runs):
    text = format_table(runs)
    assert max(map(len, text.splitlines())) <= 100
    assert "DEMO" in text
    assert re.search(r"^LIS +3 +not reached", text, re.MULTILINE)
    assert re.search(r"^UIS +3 +\+57 %", text, re.MULTILINE)
    assert max(map(len, format_table(runs, columns=80).splitlines()[:6])) <= 80


def test_words_of_the_report(runs):
    table = speedup_table(runs)
    said = headline(runs, table).replace("\u00a0", " ")
    assert said.startswith("UIS surpasses the baseline's best mAP of 0.")
    assert "after 700 iterations instead of 1100: a speed-up of +57 %, 95 % interval" in said
    assert "far below 1" in gain_sentence(table, {})
    assert "near 1" in gain_sentence(table.assign(ess=0.97), {})
    assert gain_sentence(table.assign(ess=math.nan), {}) == ""
    assert headline(runs, table.loc[["baseline", "LIS"]]) == "No sampler surpasses the baseline's best mean mAP."
    assert "Only the baseline" in headline(runs, table.loc[["baseline"]])
    assert "No baseline" in headline(runs, table.loc[["UIS"]])


@pytest.mark.parametrize(
    "draw",
    [
        curve_figures.map_figure,
        curve_figures.size_figure,
        curve_figures.class_by_size_figure,
        curve_figures.rarest_class_figure,
        curve_figures.binary_figure,
        curve_figures.false_positive_figure,
    ],
)
def test_every_figure_names_its_axes_and_samplers(runs, draw):
    figure = draw(runs)
    assert isinstance(figure, Figure)
    named = {t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))}
    assert set(runs.samplers) <= named
    assert curve_figures.ITERATION_LABEL in named
    for ax in figure.axes:
        for line in ax.get_lines():
            if line.get_label() in LOOKS:
                assert line.get_color() == LOOKS[line.get_label()].color


def test_map_figure_draws_the_speedup_bars(runs):
    top, strip = curve_figures.map_figure(runs).axes
    bars = [line.get_xdata() for line in strip.get_lines() if line.get_linewidth() == 5]
    assert [list(bar) for bar in bars] == [[700, 1100], [900, 1100]]
    words = [t.get_text().strip() for t in strip.texts]
    assert words == ["not reached", "+57 %", "+22 %"]
    dashed = [line for line in top.get_lines() if line.get_xdata()[0] == 700 and len(line.get_xdata()) == 2]
    assert dashed[0].get_ydata()[0] == pytest.approx(runs.mean_curve("mAP", "baseline").max())


def test_empty_strata_say_so(runs):
    texts = [t.get_text() for ax in curve_figures.class_by_size_figure(runs).axes for t in ax.texts]
    assert texts == ["n/a"]


def test_looks_are_the_samplers_own():
    samplers = ["baseline", "UIS", "mine", "yours"]
    assert look_of("UIS", samplers) == LOOKS["UIS"]
    assert look_of("mine", samplers) != look_of("yours", samplers)
    assert len({(look.color, look.dash) for look in LOOKS.values()}) == len(LOOKS)


def test_report(store, tmp_path, capsys):
    page, _ = results_command(store.uri, store.experiment, tmp_path / "new" / "folder")
    assert "speed-up" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert html.count("DEMO") > 3
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", html)  # nothing is fetched
    assert "<script" not in html
    assert "2 cores &lt;no GPU&gt;" in html  # autoescape
    assert "abc1234" in html
    assert "LIS-RB" in html  # the failed run is listed
    assert html.index("<table") < html.index("<img")
    pictures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    assert len(pictures) == html.count("<figure>") > 6
    assert all(ElementTree.fromstring(base64.b64decode(p)).tag.endswith("svg") for p in pictures)

    data = json.loads((page.parent / "speedup.json").read_text(), parse_constant=pytest.fail)
    assert data["demo"] is True
    by_name = {row["sampler"]: row for row in data["samplers"]}
    assert by_name["LIS"]["speedup"] == "not reached"
    assert by_name["UIS"]["speedup"] == pytest.approx(1100 / 700 - 1)
    assert by_name["baseline"]["speedup"] is None
    csv = pd.read_csv(page.parent / "speedup.csv", index_col="sampler")
    assert csv.loc["LIS", "speedup"] == "not reached"
    assert float(csv.loc["UIS", "speedup"]) == pytest.approx(1100 / 700 - 1)


def test_one_seed_and_no_baseline(another, tmp_path):
    parent = another.sweep()
    another.run(parent, "UIS", 0, grid=GRID[:2])
    runs = load_runs(another.uri, another.experiment)
    text = format_table(runs)
    assert "No baseline run has finished" in text
    assert "n/a" in text
    assert "±" not in text
    assert "DEMO" not in write_report(runs, tmp_path).read_text(encoding="utf-8")


def test_repeated_runs_and_steps_count_once(another):
    parent = another.sweep()
    another.run(parent, "UIS", 0, grid=[100], metrics=only_map(1), start=1)
    again = another.run(parent, "UIS", 0, grid=[100], metrics=only_map(2), start=2)
    another.client.log_metric(again, "mAP", 7.0, timestamp=10**6, step=100)  # a resumed run validates once more
    runs = load_runs(another.uri, another.experiment)
    assert runs.mean_curve("mAP", "UIS").to_dict() == {100: 7.0}
    assert runs.left_out["reason"].tolist() == [f"repeated later as run {again}"]


def test_runs_without_a_validation_are_left_out(another):
    parent = another.sweep()
    another.run(parent, "UIS", 0, grid=[100], metrics=only_map(1))
    another.run(parent, "UIS", 1, grid=[100], metrics=lambda *_: {"train/loss": 1})
    runs = load_runs(another.uri, another.experiment)
    assert len(runs.runs) == 1
    assert runs.left_out["reason"].tolist() == ["logged no mAP"]


def test_runs_that_cannot_be_compared_are_refused(another):
    parent = another.sweep("stores", start=1)
    another.run(parent, "UIS", 0, grid=[100], metrics=only_map(1), store="one")
    another.run(parent, "UIS", 1, grid=[100], metrics=only_map(1), store="two")
    with pytest.raises(InputError, match=r"different stores \(one and two\)"):
        load_runs(another.uri, another.experiment)
    parent = another.sweep("grids", start=2)
    another.run(parent, "UIS", 0, grid=[100], metrics=only_map(1))
    another.run(parent, "UIS", 1, grid=[100, 200], metrics=only_map(1))
    with pytest.raises(InputError, match=r"different iterations \(1 times up to 100, 2 times up to 200\)"):
        load_runs(another.uri, another.experiment)


def test_nothing_to_read(another, store):
    with pytest.raises(InputError, match="holds no sweep"):
        load_runs(another.uri, another.experiment)
    parent = another.sweep()
    with pytest.raises(InputError, match=r"no finished run \(none started\)"):
        load_runs(another.uri, another.experiment)
    another.run(parent, "UIS", 0, status="RUNNING", grid=[100], metrics=only_map(1))
    with pytest.raises(InputError, match=r"no finished run \(1 running\)"):
        load_runs(another.uri, another.experiment)
    with pytest.raises(InputError, match=f"has no sweep 'absent'; it has: {parent}"):
        load_runs(another.uri, another.experiment, sweep="absent")
    with pytest.raises(InputError, match=r"has no experiment 'absent'; it has: .*grid"):
        load_runs(store.uri, "absent")


def test_store_that_cannot_be_read(tmp_path):
    not_a_database = tmp_path / "notes.txt"
    not_a_database.write_text("hello " * 100)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for uri, message in [
        (f"sqlite:///{tmp_path}/absent.db", "no MLflow database at"),
        (f"sqlite:///{not_a_database}", "the MLflow store .* cannot be used: .*not a database"),
        (closed, "the MLflow store .* cannot be used: "),
        (str(tmp_path), "starts with sqlite:///, http:// or the like"),
        ("", "starts with sqlite:///, http:// or the like"),
        ("nonsense://x", "the MLflow store nonsense://x cannot be used: "),
        ("http://[::1", "is no address: Invalid IPv6 URL"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            load_runs(uri, "grid")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "absent.db").exists()


def test_nowhere_to_write(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the report into"):
        write_report(runs, tmp_path / "file")


def test_without_a_name_it_is_the_sweep_that_started_last(tmp_path):
    older, newer = Store(tmp_path, "older"), Store(tmp_path, "newer")
    older.run(older.sweep(start=1_000), "UIS", 0)
    newer.run(newer.sweep(start=2_000), "LIS", 0)
    assert load_runs(older.uri).experiment == "newer"
    last = older.sweep(start=3_000)
    older.run(last, "UIS", 0)
    assert load_runs(older.uri).experiment == "older"
    newer.run(newer.sweep(start=4_000), "UIS", 0)
    assert load_runs(older.uri, sweep=last).experiment == "older"
    with pytest.raises(InputError, match="there is no sweep 'absent' in this MLflow store"):
        load_runs(older.uri, sweep="absent")


def test_a_store_without_a_sweep_says_so(tmp_path):
    empty = Store(tmp_path)
    with pytest.raises(InputError, match=r"has no sweep yet: run `isod sweep`, or name another --tracking-uri"):
        load_runs(empty.uri)


def test_results_and_triage_find_the_last_sweep(tmp_path, monkeypatch, capsys):
    """In the folder where `isod sweep` ran, or where MLFLOW_TRACKING_URI leads."""
    monkeypatch.chdir(tmp_path)
    assert main(["results"]) == 2
    assert "there is no MLflow database at sqlite:///" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    store = Store(tmp_path / "out")
    write_full_sweep(store, ["baseline", "UIS"], seeds=1, grid=GRID[::4])
    assert main(["results"]) == 0
    assert "report: out/report/report.html" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    assert main(["results", "--out", "elsewhere"]) == 2
    assert "has no experiment 'another'; it has: " in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert main(["triage"]) == 2  # as the runs of this test name a store that is not there
    assert "/data/store" in capsys.readouterr().err
