"""A trained detector as a LoggedModel of MLflow: it says what goes in and comes out, and `mlflow models serve` runs it.

It is a pyfunc model "from code": MLflow keeps ``served_model.py`` and the folder of the saved detector, and no pickle.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, NOT_IMPLEMENTED, ErrorCode
from mlflow.tracking import MlflowClient

from isod.version import source_commit
from isod.vocabulary import COMMIT_TAG, HEADLINE, SIZES

CODE = Path(__file__).with_name("served_model.py")
NAME = "detector"
PARAMS = ("sampler", "seed", "training.iterations", "store")  # of its run, by which MLflow's UI tells models apart
METRICS = (HEADLINE, *(f"{HEADLINE}_{size}" for size in SIZES), "F1", "F1_threshold", "FP_empty")
IMAGE, BOXES, SCORES, CLASSES = "image", "boxes", "scores", "classes"


def log_detector(client: MlflowClient, experiment_id: str, run_id: str, folder: Path, *, step: int = 0) -> str:
    """Log a saved detector as a LoggedModel of a run, and return the model's id; no-op if the run has one.

    Input: a column ``image`` with the bytes of an image file (base64 in JSON), one row an image. Output: one row an
    image with ``boxes`` (xyxy, pixels of the whole image), ``scores``, and ``classes`` by name: what `isod predict`
    gives.

    Args:
        folder: of the saved detector.
        step: iterations that it was trained for.
    """
    logged = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}' AND name = '{NAME}'")
    for model in logged:
        if model.status == LoggedModelStatus.READY:
            return model.model_id
    run = client.get_run(run_id)
    with tempfile.TemporaryDirectory() as place:
        save_pyfunc(folder, Path(place) / "model")
        model = client.create_logged_model(
            experiment_id,
            NAME,
            source_run_id=run_id,
            tags={COMMIT_TAG: source_commit()},
            params={name: run.data.params[name] for name in PARAMS if name in run.data.params},
            model_type="detector",
        )
        client.log_model_artifacts(model.model_id, str(Path(place) / "model"))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    client.log_batch(run_id, metrics=_last_points(client, run, model.model_id))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id


def _last_points(client: MlflowClient, run: Run, model_id: str) -> list[Metric]:
    """Return the run's last points once more, of the model. MLflow adds no point to a run that is there already."""
    run_id, data = run.info.run_id, [item.dataset for item in run.inputs.dataset_inputs] if run.inputs else []
    of = {"model_id": model_id, "run_id": run_id}
    if data:
        of |= {"dataset_name": data[0].name, "dataset_digest": data[0].digest}
    names = [name for name in METRICS if name in run.data.metrics]
    last = [max(client.get_metric_history(run_id, name), key=lambda point: point.step) for name in names]
    return [Metric(point.key, point.value, point.timestamp, point.step, **of) for point in last]


def has_no_logged_models(error: Exception) -> bool:
    """Whether a call failed because the server or store is older than LoggedModels, so that trying again is in vain."""
    if isinstance(error, MlflowException):
        return error.error_code in (ErrorCode.Name(ENDPOINT_NOT_FOUND), ErrorCode.Name(NOT_IMPLEMENTED))
    return isinstance(error, NotImplementedError)


def save_pyfunc(folder: Path, out: Path) -> None:
    """Write a saved detector as a folder in MLflow's model format, with signature and example."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array
    from PIL import Image

    import isod

    black = io.BytesIO()
    Image.new("RGB", (64, 48)).save(black, "PNG")
    mlflow.pyfunc.save_model(
        str(out),
        python_model=str(CODE),
        artifacts={NAME: str(folder)},
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, IMAGE)]),
            outputs=Schema([
                ColSpec(Array(Array(DataType.double)), BOXES),
                ColSpec(Array(DataType.double), SCORES),
                ColSpec(Array(DataType.string), CLASSES),
            ]),
        ),
        input_example=pd.DataFrame({IMAGE: [black.getvalue()]}),
        pip_requirements=[f"isod[train]=={isod.__version__}", "mlflow"],
    )  # fmt: skip
