"""Names in scripts that matplotlib's own font lacks: another one draws them, or the report says which to install."""

import io
import warnings

import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from isod.results.report import curve_figures, fonts
from isod.results.statistics.speedup_table import speedup_table
from isod.results.statistics.text_table import footnotes
from tests.tracking.made_runs import made_runs

SERIF = font_manager.findfont("DejaVu Serif")  # comes with matplotlib, as DejaVu Sans does
SERIF_ONLY = "\u02ef"  # DejaVu Sans lacks it
NOWHERE = "\U0010fffd"  # for private use: no font has it


def characters(family):
    return set(FT2Font(font_manager.findfont(family)).get_charmap())


@pytest.fixture
def only_dejavu(monkeypatch):
    """As if no other font were installed."""
    own = [entry for entry in font_manager.fontManager.ttflist if entry.name == fonts.OWN]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    fonts._fallbacks.cache_clear()
    yield
    fonts._fallbacks.cache_clear()


def drawn_without_a_warning(runs):
    """Texts of the figure by class, after matplotlib has written it."""
    figure = curve_figures.class_by_size_figure(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="svg")
    return [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]


def runs_of(*names):
    metrics = {"mAP": {100: 0.1, 200: 0.2}}
    for place, name in enumerate(names):
        metrics |= {f"AP/{name}": {100: 0.1, 200: 0.2}, f"GT/{name}": {100: 9 - place, 200: 9 - place}}
    return made_runs({("baseline", 0): metrics, ("UIS", 0): metrics})


def test_latin_names_take_matplotlibs_own_font():
    assert fonts.families(["Vehicle", "Straßenbahn", "Ålesund"]) == ["DejaVu Sans"]
    assert fonts.missing_font(["Vehicle", "Straßenbahn"]) == ""


def test_another_font_draws_what_the_own_one_lacks():
    assert fonts.families([f"car {SERIF_ONLY}"])[0] == "DejaVu Sans"
    assert ord(SERIF_ONLY) in characters(fonts.families([f"car {SERIF_ONLY}"])[1])
    assert fonts.drawable(SERIF_ONLY) == SERIF_ONLY
    assert drawn_without_a_warning(runs_of(f"car {SERIF_ONLY}")) == [f"AP car {SERIF_ONLY}"]


def test_a_name_that_no_font_can_draw_becomes_a_code_and_is_named_once():
    runs = runs_of("Vehicle", f"bus {NOWHERE}")
    assert drawn_without_a_warning(runs) == ["AP Vehicle", "AP bus \\U0010fffd"]
    said = [note for note in footnotes(runs, speedup_table(runs)) if "font" in note]
    assert said == [
        f"No installed font has the characters of bus {NOWHERE}: figures show codes; install one (fonts-noto)."
    ]


@pytest.mark.usefixtures("only_dejavu")
def test_chinese_names_ask_for_the_font_that_has_them():
    assert fonts.drawable("车 1") == "\\u8f66 1"
    sentence = fonts.missing_font(["Vehicle", "车", "バス", "트럭", "自行车", "行人"])
    assert sentence == (
        "No installed font has the characters of 车, バス, 트럭 and 2 more: "
        "figures show codes; install one (fonts-noto-cjk)."
    )


def test_a_font_installed_later_is_found(monkeypatch, only_dejavu):
    """matplotlib keeps its list of fonts; here it lacks one that the system has."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [SERIF])
    assert fonts.families([SERIF_ONLY]) == ["DejaVu Sans", "DejaVu Serif"]


@pytest.mark.parametrize(("name", "short"), [("x" * 22, "x" * 22), ("é" * 23, "é" * 21 + "…")])
def test_long_names_are_cut(name, short):
    assert curve_figures.shortened(name) == short


def test_chinese_characters_count_twice(monkeypatch):
    monkeypatch.setattr(curve_figures, "drawable", lambda name: name)  # as if the font were there
    assert curve_figures.shortened("车" * 11) == "车" * 11
    assert curve_figures.shortened("车" * 12) == "车" * 10 + "…"
