"""Searches as TOML files: what is read, what is drawn, and what the best settings become."""

from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isod.cli.main import main
from isod.cli.train import run_settings
from isod.config.overrides import override, parse_assignment
from isod.config.presets import PRESETS
from isod.config.search import Dimension, SearchConfig, SearchStudy, last_decision, read_search
from isod.config.settings import RunConfig
from isod.config.study import read_study, sections_of
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS

LR = 'sampler = "UIS"\n[settings]\ntraining.lr = { min = 1e-4, max = 1e-2, log = true }\n'
UIS = 'sampler = "UIS"\n[settings]\n'


@pytest.fixture
def search(tmp_path):
    """Writes search.toml and gives its path."""

    def write(text):
        path = tmp_path / "search.toml"
        path.write_text(text)
        return path

    return write


def test_the_docstring_of_the_module_is_a_search(search):
    import isod.config.search

    (_, text, *_) = isod.config.search.__doc__.split("\n\n", 1)
    study = read_search(search(text))
    assert (study.name, study.sampler, study.preset) == ("rates", SAMPLERS["UIS"], "small")
    assert study.search == SearchConfig()
    where = f"{search(text)}: [settings] "
    assert study.dimensions == (
        Dimension(name="training.lr", where=f"{where}training.lr", low=1e-4, high=0.1, log=True),
        Dimension(name="sampler.floor", where=f"{where}sampler.floor", values=(0.0, 0.1, 0.5)),
    )
    assert [(a.name, a.value) for a in study.settings] == [("training.iterations", 600)]


def test_names_in_quotes_and_values_of_every_type(search):
    study = read_search(
        search(
            UIS + '"training.lag" = { min = 1, max = 4 }\ndetector.blocks = [[1, 1, 1, 1], [3, 4, 6, 3]]\n'
            'training.flip = [true, false]\nsampler.prior = ["none", "class_balanced"]\n'
        )
    )
    whole, blocks, flip, prior = study.dimensions
    assert (whole.whole, whole.low, whole.high, whole.log) == (True, 1, 4, False)
    assert blocks.values == ((1, 1, 1, 1), (3, 4, 6, 3))
    assert flip.values == (True, False)
    assert prior.values == (None, "class_balanced")


def test_a_grid_is_every_combination(search):
    text = UIS + 'training.lr = [1e-4, 1e-3]\nsampler.floor = [0.0, 0.5]\n[search]\nalgorithm = "grid"\n'
    study = read_search(search(text))
    assert study.points() == [
        {"training.lr": lr, "sampler.floor": floor} for lr in (1e-4, 1e-3) for floor in (0.0, 0.5)
    ]
    configs = study.trials(PRESETS["demo"])
    assert [config.sampler.name for config in configs] == ["UIS-001", "UIS-002", "UIS-003", "UIS-004"]
    expected, _ = run_settings(
        "UIS", "demo", [parse_assignment("training.lr=1e-3"), parse_assignment("sampler.floor=0.5")]
    )
    assert replace(configs[3], sampler=replace(configs[3].sampler, name="UIS")) == expected


@given(st.integers(0, 1000), st.integers(1, 30), st.booleans())
def test_random_values_are_in_their_range_and_more_samples_begin_with_the_same(seed, samples, log):
    dimensions = (
        Dimension(name="training.lr", where="", low=1e-4, high=1e-2, log=log),
        Dimension(name="training.lag", where="", low=1, high=3, log=log, whole=True),
    )
    config = SearchConfig(samples=samples, seed=seed)
    study = SearchStudy(name="s", sampler=SAMPLERS["UIS"], dimensions=dimensions, search=config)
    points = study.points()
    assert len(points) == samples
    for point in points:
        assert 1e-4 <= point["training.lr"] <= 1e-2
        assert point["training.lag"] in (1, 2, 3)
        assert type(point["training.lag"]) is int
    assert replace(study, search=replace(config, samples=samples + 3)).points()[:samples] == points


def test_a_log_range_has_as_many_draws_in_each_decade():
    lr = Dimension(name="training.lr", where="", low=1e-5, high=1e-1, log=True)
    study = SearchStudy(name="s", sampler=SAMPLERS["UIS"], dimensions=[lr], search=SearchConfig(samples=4000))
    drawn = [point["training.lr"] for point in study.points()]
    for decade in range(-5, -1):
        share = sum(10.0**decade <= value < 10.0 ** (decade + 1) for value in drawn) / len(drawn)
        assert share == pytest.approx(0.25, abs=0.03)  # four standard deviations of a share of 4000


@pytest.mark.parametrize("sampler", ["UIS", "baseline"])
def test_a_sweep_of_the_best_settings_trains_what_the_search_trained(search, tmp_path, sampler):
    """Through the file, with the search's fixed settings, for a setting of each section and type."""
    text = (
        f'sampler = "{sampler}"\npreset = "demo"\n[settings]\ntraining.lr = {{ min = 1e-5, max = 1e-2 }}\n'
        'sampler.floor = [0.25, 0.5]\ntraining.betas = [[0.8, 0.9]]\nsampler.prior = ["none"]\n'
        "training.regions.kept = [7, 9]\nholdout.detector.width = [0.5]\ntraining.flip = [true]\n"
        "[training]\niterations = 60\nseed = 4\n"
    )
    if sampler == "baseline":
        text = text.replace("sampler.floor = [0.25, 0.5]\n", "").replace('sampler.prior = ["none"]\n', "")
    study = read_search(search(text))
    study = replace(study, settings=[*study.settings, parse_assignment("detector.width=0.5")])
    point, preset = study.points()[0], PRESETS["demo"]
    path = tmp_path / "best.toml"
    path.write_text(study.best_study(point, "demo", "two\nlines"))
    sweep = read_study(path)
    assert [s.name for s in sweep.samplers] == (["baseline"] if sampler == "baseline" else ["baseline", "UIS-best"])
    assert sweep.preset == "demo"
    sections = override(sections_of(preset, sweep.settings), sweep.settings)
    del sections["resources"]
    trained = RunConfig(sampler=sweep.samplers[-1], **sections)
    searched = study.config(preset, point)
    assert searched.training.seed == 4
    assert trained == replace(
        searched,
        sampler=replace(searched.sampler, name=sweep.samplers[-1].name),
        training=replace(searched.training, seed=0),
    )


WRONG = [
    ("[settings", "is not TOML: "),
    ("", "sampler must name what every trial trains"),
    ('sampler = "UISS"', "unknown sampler 'UISS'; did you mean 'UIS'?"),
    ('sampler = "UIS"', "[settings] must name what is searched"),
    (UIS + "training.lrr = [1]", "unknown setting 'training.lrr'; did you mean 'training.lr'?"),
    (UIS + "training = [1]", "training is a section"),
    (UIS + "training.lr = 1", "write a range, { min = 1e-4, max = 1e-2, log = true }, or a list of values, got 1"),
    (UIS + "training.lr = []", "[settings] training.lr: the list of values must not be empty"),
    (UIS + "training.lr = [1, 1.0]", "[settings] training.lr: a value is listed twice"),
    (UIS + "training.lr = { min = 1 }", "[settings] training.lr: a range needs min and max"),
    (UIS + "training.lr = { min = 1, max = 0.5 }", "[settings] training.lr: min must be below max, and both finite"),
    (UIS + "training.lr = { min = 0, max = inf }", "min must be below max, and both finite"),
    (UIS + "training.lr = { min = 0, max = 1, log = true }", "with log = true, min must be > 0, got 0.0"),
    (UIS + "training.lr = { min = 1, max = 2, log = 1 }", "log must be true or false, got 1"),
    (UIS + "training.lr = { min = 1, max = 2, lag = 1 }", "unknown key of a range 'lag'; did you mean 'log'?"),
    (UIS + "training.lag = { min = 0.5, max = 2 }", "training.lag must be a whole number, got 0.5"),
    (UIS + "training.flip = { min = false, max = true }", "a range is for numbers, list the values instead"),
    (UIS + "training.lr = { min = -1, max = 2 }", "[settings] training.lr: lr must be > 0 and finite, got -1.0"),
    (UIS + "training.lr = [1e-3, -2]", "[settings] training.lr: lr must be > 0 and finite, got -2.0"),
    (UIS + "training.seed = [0, 1]", "every trial has the same one, as the best seed is luck"),
    (UIS + "training.iterations = [9, 10]", "every trial has the same one, as trials of different lengths"),
    (UIS + "resources.threads = [1, 2]", "there is nothing to search"),
    (LR + "[training]\nlr = 1", "gives training.lr one value: leave that out, or do not search it"),
    (LR + "[training]\neps = -1", "search.toml: eps must be > 0 and finite, got -1.0"),
    (LR + "[search]\nsample = 3", "unknown key of [search] 'sample'; did you mean 'samples'?"),
    (LR + "[search]\nsamples = 0", "search samples must be ≥ 1, got 0"),
    (LR + '[search]\nsamples = "3"', "search.samples must be a whole number, got '3'"),
    (UIS + 'training.lr = [1e-4]\n[search]\nalgorithm = "grid"\nseed = 1', "seed says nothing to algorithm 'grid'"),
    (LR + '[search]\nscheduler = "none"\ngrace = 5', "search.grace says nothing to algorithm 'random' with"),
    (LR + '[search]\nscheduler = "median"\nreduction = 5', "search.reduction says nothing to"),
    (LR + '[search]\nalgorithm = "tpe"', "search algorithm must be one of random, grid, optuna, got 'tpe'"),
    (LR + '[search]\nscheduler = "hyperband"', "search scheduler must be one of asha, median, none, got 'hyperband'"),
    (LR + '[search]\nalgorithm = "grid"', "a grid needs the values in a list, such as [1e-4, 1e-3], got a range"),
    (LR + "[search]\ngrace = 290", "every trial trains 290 iterations, and the last validation before the end of a run "
     "is at 275"),
    (LR + "[resources]\nworkers_per_trial = 2", "a scheduler cannot stop a trial of several workers"),
    ('name = "a b"\n' + LR, "a name is made of letters, digits and . _ + -, got 'a b'"),
    ('seeds = 2\n' + LR, "unknown key 'seeds'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_wrong_file_is_one_sentence_with_its_name(search, tmp_path, capsys, text, sentence):
    path = search(text)
    with mock.patch("isod.orchestration.cluster.connect", side_effect=AssertionError("Ray was started")):
        assert main(["search", str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    if "workers" not in text and "grace" not in text:
        assert line.startswith(f"isod: {path}")
        assert line.count(str(path)) == 1 + (" gives " in line)
    assert not (tmp_path / "out").exists()


def test_a_setting_of_the_command_line_that_is_searched_is_rejected(search, tmp_path, capsys):
    assert main(["search", str(search(LR)), "--lr", "1", "--out", str(tmp_path / "out")]) == 2
    assert "--lr 1 gives training.lr one value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("iterations", "validate_every", "last"), [(300, 25, 275), (301, 25, 300), (25, 25, 0), (26, 25, 25), (10, 25, 0)]
)
def test_the_last_validation_at_which_a_trial_can_be_stopped(iterations, validate_every, last):
    assert last_decision(iterations, validate_every) == last


def test_grace_is_a_ninth_or_the_first_validation():
    assert SearchConfig().grace_of(900, 10) == 100
    assert SearchConfig().grace_of(300, 50) == 50
    assert SearchConfig(grace=7).grace_of(300, 50) == 7
    with pytest.raises(InputError, match="nothing could be stopped"):
        SearchConfig().grace_of(25, 25)
    assert SearchConfig(scheduler="none").grace_of(25, 25) == 25
