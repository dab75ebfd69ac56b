"""Names of metrics that MLflow accepts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from isod.errors import InputError
from isod.tracking.metric_names import check_class_names, mlflow_key


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=300)
def test_mlflow_accepts_the_metrics_of_any_class_name(name):
    """MLflow's own check of a metric's name."""
    _validate_metric_name(mlflow_key(f"AP_medium/{name}"))


def test_classes_that_would_share_a_metric_are_refused():
    check_class_names(["car", "Car", "small truck", "a/b", "..", "größe"])
    with pytest.raises(InputError, match="the classes 'a<b' and 'a>b' would share the MLflow metric 'AP_medium/a_b'"):
        check_class_names(["a<b", "car", "a>b"])
    with pytest.raises(InputError, match="has 300 characters, and MLflow allows 250 in the name of a metric"):
        check_class_names(["x" * 300])
