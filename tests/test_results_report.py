"""The report of a whole thesis grid: every figure in it, the guard, and how it shows in a browser."""

import base64
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest

from isod.config import THESIS_SAMPLERS
from isod.results import guard_table, load_runs, write_report
from isod.results.report import gain_sentence
from tests.browser import needs_chromium, widths_of
from tests.full_sweep import write_full_sweep
from tests.mlflow_store import GRID, Store

HOSTILE = "<b>mine</b> & 'yours'"  # a sampler may be called anything


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("mlflow"))
    write_full_sweep(store, [*THESIS_SAMPLERS, HOSTILE], grid=GRID[::5])
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


def test_every_figure_of_the_thesis_is_in_it_in_its_order(html):
    numbers = re.findall(r"thesis Fig\. ([\w.]+)", html)
    chapter_5 = [f"5.{n}" for n in range(1, 21)]
    assert [n for n in numbers if n.startswith("5.")] == chapter_5
    assert {n for n in numbers if n.startswith("6.")} == {f"6.{n}" for n in range(1, 8)}
    assert [n for n in numbers if n.startswith("A.")] == ["A.1", "A.2", "A.3", "A.4", "A.5"]
    assert {n for n in numbers if n.startswith("B.")} == {f"B.{n}" for n in range(1, 11)}
    assert "thesis Fig. C.1 to C.3" in html
    firsts = [html.index(f"thesis Fig. {n}<") for n in ("5.1", "5.6", "5.11", "5.16", "6.1", "6.7", "A.2", "B.1")]
    assert firsts == sorted(firsts)


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
    assert len(sources) > 40
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
    said = gain_sentence(table)
    assert "LIS 0.95, near 1" in said
    assert "UIS 0.50, UIS-IR 0.40, far below 1" in said
    assert "baseline" not in said


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
