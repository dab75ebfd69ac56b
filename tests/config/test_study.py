"""Studies as TOML files."""

from dataclasses import replace

import pytest

from isod.cli.main import main
from isod.config.overrides import override, parse_assignment, replaced
from isod.config.presets import PRESETS
from isod.config.settings import TrainingConfig
from isod.config.study import Study, read_study, sections_of, under
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS

UIS = SAMPLERS["UIS"]
TEXT = """
name = "floors"
run = ["baseline", "UIS-half", "UIS-lag-0"]
preset = "medium"
seeds = 3

[training]
iterations = 600
betas = [0.8, 0.99]

[holdout.detector]
width = 0.5

[samplers.UIS-half]
base = "UIS"
floor = 0.5

[samplers.UIS-lag-0]
base = "UIS"
training = { lag = 0 }

[samplers.LIS-object-loss]
base = "LIS"
box_weight = 2

[samplers.LIS-object-loss.training]
loss_normalisation = "object"
lr = 1
"""


@pytest.fixture
def study(tmp_path):
    """Writes study.toml and gives its path."""

    def write(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_is_the_study_that_python_would_make(study):
    ((lag, setting),) = under({"lag-0": {"lag": 0}}, [UIS])
    read = read_study(study(TEXT))
    assert replace(read, settings=()) == Study(
        name="floors",
        samplers=[SAMPLERS["baseline"], replace(UIS, name="UIS-half", floor=0.5), lag],
        extra=(replace(SAMPLERS["LIS"], name="LIS-object-loss", box_weight=2.0),),
        training={"UIS-lag-0": setting, "LIS-object-loss": {"loss_normalisation": "object", "lr": 1.0}},
        preset="medium",
        seeds=3,
    )
    preset = PRESETS["medium"]
    changed = override(sections_of(preset), read.settings)
    assert changed["training"] == replace(preset.training, iterations=600, betas=(0.8, 0.99))
    assert changed["holdout"] == replace(preset.holdout, detector=replace(preset.holdout.detector, width=0.5))
    assert changed["detector"] == preset.detector
    assert type(read.training["LIS-object-loss"]["lr"]) is float


def test_the_docstring_of_the_module_is_a_study(study):
    import isod.config.study

    (_, text, *_) = isod.config.study.__doc__.split("\n\n", 1)
    read = read_study(study(text))
    assert [sampler.name for sampler in read.samplers] == ["baseline", "UIS", "UIS-half"]
    assert [sampler.name for sampler in read.extra] == ["UIS-lag-0"]


def test_what_is_left_out_is_the_default(study):
    read = read_study(study('run = ["baseline", "UIS"]'))
    assert read == Study(name="study", samplers=[SAMPLERS["baseline"], UIS])


RUN = 'run = ["baseline"]\n'
WRONG = [
    ("run = [", "is not TOML: "),
    ("", "run must list the names of samplers, such as run = "),
    ("run = []", "run must list the names of samplers"),
    ('run = "UIS"', "run must list the names of samplers"),
    ('run = ["UISS"]', "unknown sampler 'UISS'; did you mean 'UIS'?"),
    ('run = ["UIS", "UIS"]', "names repeated"),
    (RUN + "[traning]\nlr = 1", "unknown key 'traning'; did you mean 'training'?"),
    (RUN + "[sampler]\nfloor = 1", "unknown key 'sampler'; did you mean 'samplers'?"),
    (RUN + "training = 3", "training must be a table, [training], got 3"),
    (RUN + "[training]\nlrr = 1", "unknown setting 'training.lrr'; did you mean 'training.lr'?"),
    (RUN + '[training]\nlr = "fast"', "training.lr must be a number, got 'fast'"),
    (RUN + "[training]\nseed = 1", "a sweep sets training.seed of each run"),
    (RUN + "[holdout]\ndetector = 1", "holdout.detector is a section"),
    (RUN + "seeds = 1.5", "seeds must be a whole number, got 1.5"),
    (RUN + "seeds = 0", "seeds must be ≥ 1, got 0"),
    (RUN + 'preset = "smal"', "unknown preset 'smal'; did you mean 'small'?"),
    (RUN + 'name = "a b"', "a name is made of letters, digits and . _ + -, got 'a b'"),
    (RUN + "[samplers.mine]\nfloor = 0.5", "[samplers.mine] needs the named sampler that it starts from"),
    (RUN + '[samplers.mine]\nbase = "UISS"', "unknown sampler 'UISS'; did you mean 'UIS'?"),
    (RUN + '[samplers.mine]\nbase = ["UIS"]', "needs the named sampler that it starts from"),
    (RUN + '[samplers.mine]\nbase = "UIS"\nname = "yours"', "[samplers.mine] has its name from the heading"),
    (RUN + '[samplers.mine]\nbase = "UIS"\nflor = 1', "did you mean 'samplers.mine.floor'?"),
    (RUN + '[samplers.mine]\nbase = "UIS"\nfloor = 2', "sampler floor must be in [0, 1], got 2.0"),
    (RUN + '[samplers.UIS]\nbase = "UIS"\nfloor = 1', "'UIS' is the name of another sampler"),
    (RUN + '[samplers.mine]\nbase = "UIS"\ntraining = { lagg = 1 }', "did you mean 'samplers.mine.training.lag'?"),
    (RUN + '[samplers.mine]\nbase = "UIS"\ntraining = { lag = -1 }', "lag must be ≥ 0, got -1"),
    (RUN + '[samplers.mine]\nbase = "UIS"\ntraining = { seed = 1 }', "a sweep sets training.seed of each run"),
    (RUN + '[samplers.mine]\nbase = "UIS"\ntraining = { iterations = 9 }', "a sweep compares runs of one length: "),
    (RUN + '[samplers."a/b"]\nbase = "UIS"', "a name is made of letters, digits and . _ + -, got 'a/b'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_wrong_file_is_one_sentence_with_its_name(study, tmp_path, capsys, text, sentence):
    path = study(text)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"isod: {path}")
    assert line.count(str(path)) == 1
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_a_value_out_of_range_is_found_with_the_preset_and_the_command_line(study, tmp_path, capsys):
    path = study(RUN + "[training]\nlr = -1")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"isod: {path}: lr must be > 0 and finite, got -1.0\n"


def test_a_setting_within_a_training_setting(study):
    """[samplers.X] training = { regions = { method = … } }, as `isod settings` lists it."""
    path = study('run = ["X"]\n[samplers.X]\nbase = "UIS"\ntraining = { lr = 0.5, regions = { method = "lrm" } }')
    (own,) = read_study(path).training.values()
    trained = replaced(TrainingConfig(), own)
    assert (trained.lr, trained.regions.method) == (0.5, "lrm")
    assert trained.regions.kept == TrainingConfig().regions.kept


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the study .*none.toml \(No such file or directory\)"):
        read_study(tmp_path / "none.toml")


def test_a_preset_leaves_another_detector_the_loss_of_its_library():
    preset = replace(PRESETS["small"], training=TrainingConfig(lr=0.5, loss_normalisation="object", warmup=9))
    thesis = sections_of(preset, [parse_assignment("detector.width=0.5")])["training"]
    other = sections_of(preset, [parse_assignment("detector.name=fcos")])["training"]
    assert (thesis.lr, thesis.loss_normalisation) == (0.5, "object")
    assert (other.lr, other.loss_normalisation, other.warmup) == (1e-3, "location", 9)
    again = [parse_assignment(text) for text in ("detector.name=fcos", "detector.name=thesis")]
    assert sections_of(preset, again)["training"] == preset.training  # the last one counts
