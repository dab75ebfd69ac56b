"""Names of metrics that MLflow accepts."""

from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    _validate_length_limit,
    _validate_metric_name,
    _validate_tag,
)

from isod.tracking.metric_names import class_keys, class_names, class_tags, extreme_classes, metric_name, mlflow_key


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=300)
def test_mlflow_accepts_the_metrics_of_any_class_name(name):
    """MLflow's own check of a metric's name."""
    _validate_metric_name(mlflow_key(f"AP_medium/{name}"))


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, max_size=30))
@settings(max_examples=200)
def test_the_names_come_back_whatever_they_are(names):
    """All keys differ, MLflow accepts them and the tags, and what reads them has the names again."""
    keys = class_keys(names)
    used = [mlflow_key(f"AP_medium/{name}", keys) for name in names]
    assert len(set(used)) == len(names)
    for key in used:
        _validate_metric_name(key)
        _validate_length_limit("metric", MAX_ENTITY_KEY_LENGTH, key)
    tags = class_tags(names)
    for tag, value in tags.items():
        _validate_tag(tag, value)
    back = class_names(tags)
    assert [metric_name(key, back) for key in used] == [f"AP_medium/{name}" for name in names]


def test_letters_of_any_script_stay_as_they_are():
    names = ["行人", "пешеход", "Fußgänger", "자동차", "small truck"]
    assert class_keys(names) == {}
    assert mlflow_key("AP_medium/行人") == "AP_medium/行人"
    assert class_keys(["🚗", "🚌", "_", "a<b", "a>b"]) == {"🚗": "_ 2", "🚌": "_ 3", "a<b": "a_b", "a>b": "a_b 2"}


def test_the_extremes():
    metrics = {f"GT/c{i}": float(i) for i in range(30)} | {"GT_small/x": 99.0, "AP/y": 1.0}
    assert extreme_classes(metrics) == {f"c{i}" for i in (*range(1, 11), *range(20, 30))}
