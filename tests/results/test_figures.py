"""Figures of metrics: what is drawn, in which colour, legible and well-formed whatever the classes are called."""

import io
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from isod.results import load_runs
from isod.results.report import curve_figures as figures
from isod.results.report.style import LOOKS, look_of
from isod.sampling.samplers import SAMPLERS, THESIS_SAMPLERS
from tests.tracking.full_sweep import all_metrics
from tests.tracking.mlflow_store import GRID, Store

HOSTILE = {"Vehicle": "Vulnerable $x_2$ <b>vehicle</b> with a long name"}  # MLflow itself would not allow $ or <
GROUPS = [("LIS", "UIS"), ("LIS-RB", "UIS-RB"), ("LIS-RHO",), ("LIS-IR", "UIS-IR")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("mlflow"))
    parent = store.sweep(demo=True)
    for sampler in ("mine", *THESIS_SAMPLERS):
        for seed in range(2):
            store.run(parent, sampler, seed, grid=GRID[::4], metrics=all_metrics)
    return load_runs(store.uri, store.experiment)


DRAW = {
    "map": figures.map_figure,
    "size": figures.size_figure,
    "class by size": figures.class_by_size_figure,
    "class by size, raw": lambda runs, samplers=None: figures.class_by_size_figure(runs, samplers, smoothing=None),
    "rarest class": figures.rarest_class_figure,
    "binary": figures.binary_figure,
    "correlation": figures.correlation_figure,
    "false positives": figures.false_positive_figure,
    "drawing": figures.drawing_figure,
    "wrong labels": figures.wrong_label_figure,
}


def curves(figure):
    """Colours of the lines named after a sampler."""
    lines = [line for ax in figure.axes for line in ax.get_lines() if line.get_label() in SAMPLERS]
    assert lines
    return {line.get_label(): line.get_color() for line in lines}


def texts(figure):
    return [t for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text().strip() and t.get_visible()]


@pytest.mark.parametrize("name", DRAW)
def test_a_subset_is_drawn_alone_and_in_the_same_colours(runs, name):
    whole = curves(DRAW[name](runs))
    for group in GROUPS if name == "map" else GROUPS[:1]:
        part = DRAW[name](runs, ["baseline", *group])
        drawn = curves(part)
        assert set(drawn) - {"baseline"} == set(group)
        assert all(color == whole[sampler] == LOOKS[sampler].color for sampler, color in drawn.items())
        assert not {t.get_text() for t in texts(part)} & (set(runs.samplers) - {"baseline", *group})


@pytest.mark.parametrize("name", DRAW)
def test_texts_lie_inside_the_figure_and_not_on_one_another(runs, name):
    figure = DRAW[name](runs)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = {}
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            for text in (axis.label, ax._left_title, *ticks):
                if text.get_visible() and text.get_text().strip():
                    boxes[id(text)] = (text.get_text(), text.get_window_extent())
    for text in figure.texts + [t for legend in figure.legends for t in legend.get_texts()]:
        boxes[id(text)] = (text.get_text(), text.get_window_extent())
    assert len(boxes) > 6
    for words, box in boxes.values():
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1, words
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1, words
    for (one, a), (two, b) in combinations(boxes.values(), 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) < 1, f"{one!r} lies on {two!r}"


def test_counts_of_ground_truth_are_in_the_titles(runs):
    titles = [ax.get_title(loc="left") for ax in figures.class_by_size_figure(runs).axes]
    assert titles[:4] == ["all sizes (6000)", "small (3000)", "medium (3000)", "large (3000)"]
    assert titles[-1] == "large (0)"
    assert "all sizes (42 objects)" in [ax.get_title(loc="left") for ax in figures.rarest_class_figure(runs).axes]


def test_false_positives_are_counted_in_whole_numbers(runs):
    """Also where there are none: 0 to 1, not 0 to 0.04."""
    of_animals = runs.curves["metric"] == "FP/Animal"
    none = replace(runs, curves=runs.curves.assign(value=runs.curves["value"].mask(of_animals, 0)))
    for ax in figures.false_positive_figure(none).axes:
        assert ax.get_ylim()[1] >= 1
        assert all(tick == round(tick) for tick in ax.get_yticks())


def test_smoothing_is_drawn_over_the_raw_mean(runs):
    ax = figures.class_by_size_figure(runs, ["UIS"]).axes[0]
    raw, smooth = ax.get_lines()
    mean = runs.mean_curve("AP/Vehicle", "UIS").to_numpy()
    assert raw.get_ydata() == pytest.approx(mean)
    assert smooth.get_ydata()[1] == pytest.approx(0.8 * mean[0] + 0.2 * mean[1])
    unsmoothed = figures.class_by_size_figure(runs, ["UIS"], smoothing=None).axes[0].get_lines()
    assert len(unsmoothed) == 1
    assert unsmoothed[0].get_ydata() == pytest.approx(mean)


def test_correlations_may_be_negative_and_samplers_without_are_not_named(runs):
    figure = figures.correlation_figure(runs)
    assert figure.axes[0].get_ylim()[0] < -0.1
    assert "baseline" not in {t.get_text() for t in texts(figure)}


def test_metrics_that_no_run_has_say_so(runs):
    figure = figures.wrong_label_figure(runs, ["absent"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["n/a"]


def test_any_class_name_can_be_drawn(runs):
    renamed = runs.curves.assign(metric=runs.curves["metric"].astype(str).str.replace("Vehicle", HOSTILE["Vehicle"]))
    hostile = replace(runs, curves=renamed)
    for draw in (figures.class_by_size_figure, figures.false_positive_figure):
        buffer = io.BytesIO()
        draw(hostile).savefig(buffer, format="svg")
        assert ElementTree.fromstring(buffer.getvalue()).tag.endswith("svg")
        assert b"<b>" not in buffer.getvalue()


def luminance(color):
    """Rec. 709 luma of a colour, as a grey print shows it."""
    return float(np.dot(to_rgb(color), (0.2126, 0.7152, 0.0722)))


def test_samplers_stay_apart_in_grey():
    looks = [(name, LOOKS[name]) for name in THESIS_SAMPLERS]
    for (one, a), (two, b) in combinations(looks, 2):
        assert (a.dash, a.marker, a.filled) != (b.dash, b.marker, b.filled), f"{one}, {two}"
    for group in GROUPS:  # what the thesis draws together differs in lightness too
        for one, two in combinations(["baseline", *group], 2):
            assert abs(luminance(LOOKS[one].color) - luminance(LOOKS[two].color)) > 0.03, f"{one}, {two}"


def test_every_named_sampler_has_a_look_of_its_own_and_others_get_a_free_one():
    assert set(LOOKS) == set(SAMPLERS)
    assert len(set(LOOKS.values())) == len(LOOKS)
    sweep = ["baseline", "UIS-printed", "mine", "yours"]
    assert len({look_of(s, sweep) for s in sweep}) == 4
    assert look_of("UIS-printed", sweep) == look_of("UIS-printed", ["UIS-printed"])
