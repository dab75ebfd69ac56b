"""Records that older versions wrote: they compare equal to what their runs would be now."""

import ast

import pytest

from isod.config.presets import PRESETS
from isod.config.record import DEFAULTS, changes, current, flatten
from isod.config.settings import DetectorConfig, HoldoutConfig, RunConfig
from isod.sampling.samplers import SAMPLERS

CONFIG = RunConfig(sampler=SAMPLERS["LIS-RHO"], holdout=PRESETS["demo"].holdout, detector=PRESETS["demo"].detector)
OLD_HOLDOUT = (  # as commit 2c226b9 wrote it
    "{'width': 0.125, 'blocks': (1, 1, 1, 1), 'score_floor': 0.01, 'nms_threshold': 0.5, 'display_threshold': 0.5, "
    "'detections_per_image': 300}"
)


def old_record(config=CONFIG):
    """config.json of commit 2c226b9: no detector.name, and the hold-out model's detector as one text."""
    new = flatten(config)
    old = {name: value for name, value in new.items() if not name.startswith("holdout.detector.")}
    del old["detector.name"]
    return old | {"holdout.detector": OLD_HOLDOUT}


def test_every_setting_has_a_dotted_name_of_its_own():
    flat = flatten(CONFIG)
    assert flat["holdout.detector.width"] == 0.125
    assert flat["holdout.detector.blocks"] == "(1, 1, 1, 1)"
    assert flat["holdout.detector.name"] == flat["detector.name"] == "thesis"
    assert flat["sampler.heuristic"] == "loss"
    assert "sampler.source" not in flat
    assert "holdout.detector" not in flat
    assert {type(value) for value in flat.values()} <= {str, int, float, bool}
    assert DEFAULTS.keys() == flat.keys()


@pytest.mark.parametrize("text", [False, True])
def test_a_record_of_an_older_version_is_of_the_same_run(text):
    """As config.json and checkpoints keep it, and as MLflow does, where all is text."""
    old, now = old_record(), flatten(CONFIG)
    if text:
        old, now = ({name: str(value) for name, value in record.items()} for record in (old, now))
    assert changes(old, now) == ""
    assert current(old)["holdout.detector.width"] == "0.125"
    assert current({f"params.{name}": value for name, value in old.items()}, prefix="params.").keys() == {
        f"params.{name}" for name in current(old)
    }


@pytest.mark.parametrize("text", [False, True])
def test_what_differs_from_an_older_record_is_still_named(text):
    wider = HoldoutConfig(batch_size=32, detector=DetectorConfig(name="my.detectors:build", blocks=(1, 1, 1, 1)))
    old, now = old_record(), flatten(RunConfig(sampler=CONFIG.sampler, detector=CONFIG.detector, holdout=wider))
    if text:
        old, now = ({name: str(value) for name, value in record.items()} for record in (old, now))
    assert changes(old, now) == (
        "holdout.detector.name was thesis and is my.detectors:build, holdout.detector.width was 0.125 and is 0.5"
    )


def test_a_text_that_is_no_section_is_kept():
    for text in ("{'width':", "3", "None"):
        assert current({"holdout.detector": text}) == {"holdout.detector": text}


def test_the_old_text_is_what_the_old_version_made():
    """str(asdict(DetectorConfig)) without the fields that are newer."""
    values = ast.literal_eval(OLD_HOLDOUT)
    assert {name: getattr(CONFIG.holdout.detector, name) for name in values} == values
