"""The report of a whole thesis grid: every figure in it, the guard, and how it shows in a browser."""

import base64
import contextlib
import io
import json
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest

from isod.errors import InputError
from isod.files import folder_lock
from isod.processes import WorkerPool
from isod.results import guard_table, load_runs, write_report
from isod.results.command import results_command
from isod.results.report import drawing
from isod.results.report.drawing import Gallery
from isod.results.report.page import STATISTICS, gain_sentence
from isod.results.report.picture import picture_of
from isod.results.report.sections import lead_figure, report_sections
from isod.sampling.samplers import THESIS_SAMPLERS
from isod.tracking.examples import load_examples
from isod.tracking.runs import Runs
from tests.results.browser import needs_chromium, widths_of
from tests.tracking.full_sweep import all_metrics, examples_of, write_full_sweep
from tests.tracking.mlflow_store import GRID, Store, made_up_metrics

HOSTILE = "<b>mine</b> & 'yours'"  # a sampler may be called anything


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("mlflow"))
    write_full_sweep(store, ["baseline", "LIS", "UIS", HOSTILE], grid=GRID[::5])
    return store


@pytest.fixture(scope="module")
def runs(store):
    return load_runs(store.uri, store.experiment)


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(page):
    return page.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Start tags of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def numbers(sections):
    every = [figure.thesis_number for section in sections for figure in section.figures]
    return [number for number in every if number]


def test_every_figure_of_the_thesis_is_in_it_in_its_order():
    """Without drawing any: the lead is A.1, the appendix C is a command."""
    statistics = pd.concat(
        [examples_of(s, seed).assign(sampler=s, seed=seed) for s in THESIS_SAMPLERS for seed in range(2)]
    ).astype({"sampler": pd.CategoricalDtype(THESIS_SAMPLERS)})
    grid = made_up_runs(THESIS_SAMPLERS)
    found = numbers(report_sections(grid, statistics))
    assert [n for n in found if n.startswith("5.")] == [f"5.{n}" for n in range(1, 21)]
    assert {n for n in found if n.startswith("6.")} == {f"6.{n}" for n in range(1, 8)}
    assert [lead_figure(grid, []).thesis_number] + [n for n in found if n.startswith("A.")] == [
        f"A.{n}" for n in range(1, 6)
    ]
    assert {n for n in found if n.startswith("B.")} == {f"B.{n}" for n in range(1, 11)}
    firsts = [found.index(n) for n in ("5.1", "5.6", "5.11", "5.16", "6.1", "6.7", "A.2", "B.1")]
    assert firsts == sorted(firsts)
    two = numbers(report_sections(made_up_runs(("baseline", "UIS-IR")), statistics.iloc[:0]))
    assert two == ["5.17", "5.18", "5.19", "5.20", "6.1", "6.7", "A.3", "A.4"]


def made_up_runs(samplers):
    rows = [
        (sampler, seed, metric, step, value)
        for sampler in samplers for seed in range(2) for step in GRID[:2]
        for metric, value in all_metrics(sampler, seed, step).items() if value == value
    ]  # fmt: skip
    curves = pd.DataFrame(rows, columns=["sampler", "seed", "metric", "step", "value"])
    return Runs(tracking_uri="", experiment="", sweep_id="", sweep="", tags={}, left_out=pd.DataFrame(), curves=curves,
                runs=curves[["sampler", "seed"]].drop_duplicates())  # fmt: skip


def test_it_is_read_top_down(html):
    order = ["surpasses the baseline", "Is there anything to gain?", "<table", "<img", 'id="guard"', 'id="consistency"',
             'id="made-from"', "Commit"]  # fmt: skip
    at = [html.index(words) for words in order]
    assert at == sorted(at)


def test_it_needs_nothing_but_itself(html):
    tags = Tags(html).tags
    anchors = {attributes["id"] for _, attributes in tags if "id" in attributes}
    sources = [attributes["src"] for _, attributes in tags if "src" in attributes]
    links = [attributes["href"] for _, attributes in tags if "href" in attributes]
    assert len(sources) > 15
    assert len(sources) == html.count("<figure>")
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert links
    assert {link.removeprefix("#") for link in links} <= anchors
    assert "url(" not in html
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object"}
    for source in sources:
        picture = ElementTree.fromstring(base64.b64decode(source.partition(",")[2]))
        assert picture.tag.endswith("svg")
        links = [value for element in picture.iter() for name, value in element.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)
    assert len(html) < 8_000_000


def test_the_same_runs_give_the_same_figures(runs, html):
    """To the last byte, whatever process draws them: matplotlib's ids would be random."""
    assert picture_of(lead_figure(runs, []).draw()).source in html


def test_names_from_data_are_escaped(html):
    assert "<b>" not in html
    assert "&lt;b&gt;mine&lt;/b&gt; &amp;" in html


def test_what_got_worse_is_red(runs, page, html):
    guard = guard_table(runs)
    assert 0 < guard["worse"].sum() < len(guard)
    first, everything = html.count('<tr class="worse">'), html.partition("<summary>All")[2].count('<tr class="worse">')
    assert everything == guard["worse"].sum()
    assert first == 2 * everything  # once by themselves, once among all strata
    kept = pd.read_csv(page.parent / "guard.csv")
    pd.testing.assert_frame_equal(kept, guard, check_dtype=False)


def test_files_beside_the_page(runs, page):
    data = json.loads((page.parent / "speedup.json").read_text(), parse_constant=pytest.fail)
    assert {row["sampler"] for row in data["samplers"]} == set(runs.samplers)
    assert len(data["guard"]) == len(guard_table(runs))
    assert {type(row["worse"]) for row in data["guard"]} == {bool}
    consistency = pd.read_csv(page.parent / "consistency.csv", index_col="sampler")
    assert set(consistency.index) == set(runs.samplers) - {"baseline"}
    assert consistency["importance"].between(0.5, 1).all()
    assert {row["sampler"] for row in data["consistency"]} == set(consistency.index)


def test_gain_is_said_per_sampler():
    table = pd.DataFrame({"ess": [1.0, 0.95, 0.5, 0.4]}, index=["baseline", "LIS", "UIS", "UIS-IR"])
    said = gain_sentence(table, {})
    assert "LIS 0.95, near 1" in said
    assert "UIS 0.50, UIS-IR 0.40, far below 1" in said
    assert "baseline" not in said


def test_a_sampler_that_reads_no_scores_says_nothing_of_the_data(tmp_path):
    """`uniform` draws in proportion to scores that stay 0, of which the effective sample size is 1."""
    store = Store(tmp_path)
    parent = store.sweep()
    for sampler in ("baseline", "UIS", "anyhow"):  # `anyhow` has no heuristic
        store.run(parent, sampler, 0, metrics=lambda *of: made_up_metrics(*of) | {"sampler/ess": 1.0})
    html = write_report(load_runs(store.uri, store.experiment), tmp_path / "report").read_text()
    (said,) = re.findall(r"Is there anything to gain[^<]*", html)
    assert "UIS 1.00" in said
    assert "anyhow" not in said
    commands = re.search(r"<pre>(.*?)</pre>", html, re.DOTALL)[1]
    assert "triage-UIS" in commands
    assert "triage-anyhow" not in commands


def test_gain_is_not_said_of_samplers_whose_draws_do_not_follow_scores():
    """A rank sampler's effective sample size is the same whatever the scores."""
    table = pd.DataFrame({"ess": [0.95, 0.43]}, index=["LIS", "loss-rank"])
    assert "loss-rank" not in gain_sentence(table, {"LIS": "proportional", "loss-rank": "rank"})


def test_the_command_that_shows_exploited_examples_names_a_run(runs, html):
    commands = re.search(r"<pre>(.*?)</pre>", html, re.DOTALL)[1].splitlines()
    assert len(commands) == len(runs.samplers) - 1
    uis = next(line for line in commands if line.endswith("triage-UIS"))
    assert runs.runs.loc[re.search(r"--run (\w+)", uis)[1], "sampler"] == "UIS"


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_does_not_scroll_sideways(page, tmp_path, width):
    needed, had = widths_of(page, tmp_path, width)
    assert had >= width - 20  # a scroll bar
    assert needed <= had


def test_a_folder_that_another_process_writes_to(runs, tmp_path):
    """It is left as it is."""
    (tmp_path / "report.html").write_text("theirs")
    with folder_lock(tmp_path), pytest.raises(InputError, match=f"^process {os.getpid()} on .* is writing to"):
        write_report(runs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "theirs"


def test_a_terminal_that_cannot_show_the_table_costs_no_file(store, tmp_path):
    """As Python prints where the locale is C and nobody has told it to replace what it cannot show."""
    strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    with contextlib.redirect_stdout(strict), pytest.raises(UnicodeEncodeError):
        results_command(store.uri, store.experiment, tmp_path / "out", save=tmp_path / "saved")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.html", "speedup.csv", "guard.csv"}
    assert list((tmp_path / "saved").glob("*.parquet"))


def test_several_processes_draw_the_same_page(runs, page, tmp_path):
    def without_time(report):
        return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", report.read_text(encoding="utf-8"))

    assert without_time(write_report(runs, tmp_path / "three", processes=3)) == without_time(page)


def lose_this_process(task):
    os._exit(9)


def test_figures_of_a_process_that_is_lost_are_drawn_here(runs, monkeypatch):
    examples = load_examples(runs, STATISTICS)
    alone = Gallery(runs, examples, []).pictures()
    monkeypatch.setattr(drawing, "_draw", lose_this_process)
    with WorkerPool(1) as pool, Gallery(runs, examples, [], pool) as gallery:
        assert list(gallery.pictures().values()) == list(alone.values())
