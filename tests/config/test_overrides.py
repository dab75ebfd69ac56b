"""Settings by dotted name, from the command line and from TOML: what each becomes, and what a wrong one says."""

from dataclasses import asdict, replace

import pytest

from isod.cli.main import build_parser, main
from isod.cli.train import run_settings
from isod.config.fields import descriptions, settings_in
from isod.config.overrides import Assignment, assignments_in, override, parse_assignment
from isod.config.presets import PRESETS
from isod.config.settings import DetectorConfig, HoldoutConfig, RegionConfig, ResourceConfig, TrainingConfig
from isod.config.study import sections_of
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS, SamplerConfig

SECTIONS = {"sampler": replace(SAMPLERS["UIS"], prior="segments"), **sections_of(PRESETS["small"])}
OTHER = {  # a value for every setting, other than the preset "small" has
    "sampler.name": "mine", "sampler.heuristic": "loss", "sampler.reduction": "max",
    "sampler.strategy": "my.draws:Both",
    "sampler.class_weight": "0.5", "sampler.box_weight": "0.25", "sampler.smoothing": "2", "sampler.floor": "0.1",
    "sampler.history": "momentum", "sampler.momentum": "0.5", "sampler.holdout": "true",
    "sampler.weight_exponent": "1", "sampler.half_life": "10", "sampler.pressure": "3", "sampler.share": "0.25",
    "sampler.horizon": "0.75", "sampler.prior": "empties",
    "sampler.prior_exponent": "1", "sampler.prior_cap": "8",
    "sampler.prior_threshold": "0.001", "sampler.empty_weight": "0.5", "sampler.start": "prior",
    "sampler.floor_from": "0.5", "sampler.floor_until": "0.75", "sampler.floor_end": "0.5",
    "sampler.score_low": "0.5", "sampler.score_quantile": "0.75", "sampler.window": "20", "sampler.empty_least": "0.1",
    "sampler.candidates": "3", "sampler.selection": "percentile", "sampler.scorer": "predictor",
    "sampler.subset": "keep.csv",
    "detector.name": "my.detectors:build", "detector.width": "0.5",
    "detector.blocks": "3,4,6,3", "detector.score_floor": "0.02", "detector.nms_threshold": "0.6",
    "detector.display_threshold": "0.7", "detector.detections_per_image": "100", "training.iterations": "7",
    "detector.backbone": "resnet50", "detector.pyramid_channels": "96", "detector.anchor_scale": "0.25",
    "detector.proposals": "100", "detector.quality": "none", "holdout.detector.quality": "iou",
    "training.warmup": "20", "training.ema": "0.5",
    "detector.weights": "some.pt", "holdout.detector.backbone": "resnet34",
    "holdout.detector.pyramid_channels": "32", "holdout.detector.anchor_scale": "2",
    "holdout.detector.proposals": "10", "holdout.detector.weights": "other.pt", "training.regions.method": "lrm",
    "training.regions.kept": "5", "training.regions.bias": "0.5", "training.regions.power": "1",
    "training.batch_size": "16", "training.lr": "3e-4", "training.lr_schedule": "cosine",
    "training.lr_decayed_at": "0.5", "training.betas": "(0.8, 0.99)", "training.eps": "1e-8",
    "training.validate_every": "3", "training.lag": "0", "training.flip": "False", "training.seed": "5",
    "training.compiled": "TRUE", "training.decode_on_device": "true", "training.class_weight": "2",
    "training.precision": "bfloat16", "training.box_weight": "0", "training.loss_normalisation": "object",
    "holdout.share": "0.2", "holdout.epochs": "4", "holdout.batch_size": "8", "holdout.detector.name": "torchvision",
    "holdout.detector.width": "0.25", "holdout.detector.blocks": "[2, 2, 2, 2]",
    "holdout.detector.score_floor": "0.03", "holdout.detector.nms_threshold": "0.4",
    "holdout.detector.display_threshold": "0.6", "holdout.detector.detections_per_image": "50",
    "resources.workers_per_trial": "2", "resources.decode_workers": "3", "resources.cpus_per_worker": "0.5",
    "resources.cpus_per_trial": "2", "resources.gpus_per_trial": "1", "resources.threads": "2",
    "resources.checkpoint_share": "0.1",
}  # fmt: skip


def assign(*texts):
    return override(SECTIONS, [parse_assignment(text) for text in texts])


def test_every_setting_can_be_set_from_text():
    assert settings_in(SECTIONS).keys() == OTHER.keys()
    changed = assign(*(f"{name}={value}" for name, value in OTHER.items()))
    before, after = settings_in(SECTIONS), settings_in(changed)
    for name in OTHER:
        assert after[name].value != before[name].value, name
        assert type(after[name].value) is type(before[name].value), name
    assert changed["training"].betas == (0.8, 0.99)
    assert changed["detector"].blocks == (3, 4, 6, 3)
    assert changed["holdout"].detector.blocks == (2, 2, 2, 2)
    assert changed["training"].lr == 3e-4
    assert changed["training"].flip is False
    assert changed["training"].compiled is True


def test_the_text_of_a_setting_sets_it_again():
    changed = assign(*(f"{name}={value}" for name, value in OTHER.items()))
    texts = [Assignment(name, setting.text, "") for name, setting in settings_in(changed).items()]
    assert override(SECTIONS, texts) == changed


def test_every_setting_can_be_set_from_toml():
    """Nested tables with values of TOML's types, which an int for a float is as well."""
    changed = assign(*(f"{name}={value}" for name, value in OTHER.items()))
    tables = {section: {**asdict(config)} for section, config in changed.items()}
    del tables["sampler"]["source"], tables["sampler"]["summary"]
    for table in (tables["detector"], tables["holdout"]["detector"], tables["training"]):
        for name, value in table.items():
            table[name] = list(value) if isinstance(value, tuple) else value
    tables["resources"]["cpus_per_trial"] = 2
    assert override(SECTIONS, assignments_in(tables, "study.toml")) == changed
    assert type(override(SECTIONS, assignments_in(tables, ""))["resources"].cpus_per_trial) is float


def test_what_is_not_assigned_stays_and_the_last_assignment_counts():
    assert override(SECTIONS, []) == SECTIONS
    changed = assign("training.lr=1", "training.lr=2")
    assert changed == {**SECTIONS, "training": replace(SECTIONS["training"], lr=2.0)}
    assert changed["holdout"] is SECTIONS["holdout"]
    assert assign("sampler.heuristic=none")["sampler"].heuristic is None


def test_values_that_are_right_together_are_set_together():
    changed = assign("resources.workers_per_trial=2", "resources.gpus_per_trial=1")["resources"]
    assert (changed.workers_per_trial, changed.gpus_per_trial) == (2, 1.0)
    with pytest.raises(InputError, match=r"^--set resources.workers_per_trial=2, --set resources.gpus_per_trial=0.5: "):
        assign("resources.workers_per_trial=2", "resources.gpus_per_trial=0.5", "resources.threads=2")


LIST = "`isod settings` lists every setting"
WRONG = [
    ("training.lr", "--set training.lr: write section.field=value, such as --set training.lr=3e-4"),
    ("training.lrr=1", f"unknown setting 'training.lrr'; did you mean 'training.lr'? {LIST}"),
    ("trainig.lr=1", f"unknown setting 'trainig.lr'; did you mean 'training.lr'? {LIST}"),
    ("lr=1", f"unknown setting 'lr'; did you mean 'training.lr'? {LIST}"),
    ("holdout.detector.wdth=1", f"did you mean 'holdout.detector.width'? {LIST}"),
    ("=1", "unknown setting ''"),
    ("holdout.detector=1", "holdout.detector is a section: set one of its fields, such as holdout.detector.name"),
    ("training.lr=abc", "--set training.lr=abc: training.lr must be a number, got 'abc'"),
    ("training.lr=", "--set training.lr=: training.lr must be a number, got ''"),
    ("training.iterations=8.5", "training.iterations must be a whole number, got '8.5'"),
    ("training.flip=1", "training.flip must be true or false, got '1'"),
    ("detector.blocks=1,2,3", "detector.blocks must be 4 whole numbers, such as 1,1,1,1, got '1,2,3'"),
    ("detector.blocks=1,2,3,x", "detector.blocks must be 4 whole numbers, such as 1,1,1,1, got '1,2,3,x'"),
    ("training.lr=-1", "--set training.lr=-1: lr must be > 0 and finite, got -1.0"),
    ("sampler.heuristic=los", "--set sampler.heuristic=los: sampler heuristic must be one of loss, "),
    ("detector.name=", "--set detector.name=: detector name must not be empty, got ''"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG)
def test_a_wrong_set_is_one_sentence_with_exit_code_2(tmp_path, capsys, text, sentence):
    """Before the store is opened."""
    assert main(["train", "no-store", "--out", str(tmp_path / "run"), "--set", "training.eps=1e-8", text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"isod: --set {text}: ")
    assert sentence in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("sampler.floor=0.1", "a sweep has several samplers: define one in a study's [samplers.NAME], with base"),
        ("training.seed=3", "a sweep sets training.seed of each run: choose seeds with --seeds and --first-seed"),
        ("training.lrr=1", "did you mean 'training.lr'?"),
        ("training.lag=x", "training.lag must be a whole number, got 'x'"),
    ],
)
def test_a_wrong_set_of_a_sweep_likewise(tmp_path, capsys, option, sentence):
    assert main(["sweep", "--out", str(tmp_path / "out"), "--set", option]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not (tmp_path / "out").exists()


def test_toml_text_is_no_number():
    for table, rule in (
        ({"training": {"lr": "0.1"}}, "training.lr must be a number, got '0.1'"),
        ({"training": {"lr": True}}, "training.lr must be a number, got True"),
        ({"training": {"iterations": 8.0}}, "training.iterations must be a whole number, got 8.0"),
        ({"training": {"lr_schedule": 3}}, "training.lr_schedule must be text, got 3"),
        ({"detector": {"blocks": 3}}, "detector.blocks must be 4 whole numbers, such as 1,1,1,1, got 3"),
    ):
        with pytest.raises(InputError) as error:
            override(SECTIONS, assignments_in(table, "study.toml"))
        assert str(error.value) == f"study.toml: {rule}"


def test_flags_and_set_fill_the_same_settings():
    """In the order in which they are given."""
    given = "--lr 0.1 --compiled --set training.lr=0.2 sampler.floor=0.5 --no-compiled --seed 7 --workers 3"
    nested = ["--set", "holdout.detector.width=0.5"]
    options = build_parser().parse_args(["train", "s", "--out", "o", *given.split(), *nested])
    config, resources = run_settings("UIS", "demo", options.assignments)
    demo = PRESETS["demo"]
    assert config.sampler == replace(SAMPLERS["UIS"], floor=0.5)
    assert config.training == replace(demo.training, lr=0.2, compiled=False, seed=7)
    assert config.holdout == replace(demo.holdout, detector=replace(demo.holdout.detector, width=0.5))
    assert config.detector == demo.detector
    assert resources == replace(demo.resources, decode_workers=3)


@pytest.mark.parametrize(
    "settings", [DetectorConfig, RegionConfig, TrainingConfig, HoldoutConfig, ResourceConfig, SamplerConfig]
)
def test_every_field_is_described_in_a_line(settings):
    found = descriptions(settings)
    for name in settings.__dataclass_fields__:
        if name not in ("detector", "name", "regions") or settings is DetectorConfig:
            assert 3 < len(found[name]) < 120, name
    assert TrainingConfig.__name__ not in found


def test_settings_are_listed(capsys):
    assert main(["settings", "--preset", "medium"]) == 0
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.split() == ["setting", "default", "type", "description"]
    assert [row.split()[0] for row in rows] == list(settings_in(SECTIONS))
    (row,) = [row for row in rows if row.startswith("detector.blocks ")]
    assert row.split("  ")[-1] == "thesis: residual blocks per stage; 3,4,6,3 is ResNet-34"
    assert "3,4,6,3  " in row
    assert main(["settings", "--preset", "mdium"]) == 2
    assert "did you mean 'medium'?" in capsys.readouterr().err
