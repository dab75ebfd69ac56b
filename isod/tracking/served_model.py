"""What `mlflow models serve` runs: image bytes in, boxes out. MLflow keeps a copy of this file with each model."""

from __future__ import annotations

from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel
from mlflow.types.type_hints import TypeFromExample


class ServedDetector(PythonModel):
    """A saved detector behind MLflow's interface; see ``isod.tracking.logged_model``."""

    def load_context(self, context: Any) -> None:
        """Open the saved detector, on a GPU where there is one."""
        import torch

        from isod.inference.prediction import Predictor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.predictor = Predictor(context.artifacts["detector"], device=device)

    # the type of the logged example: of others MLflow makes a signature of its own, and of none it warns at every model
    def predict(self, context: Any, model_input: TypeFromExample, params: Any = None) -> pd.DataFrame:
        """Return one row for each image: boxes, scores, classes.

        Raises:
            ValueError: an image cannot be read, with its number.
        """
        from isod.inference.sources import Broken, ImageBytes

        files: Any = model_input
        broken, rows = Broken(), []
        names = self.predictor.class_names
        for _, found in self.predictor.predict(ImageBytes(list(files["image"])), broken):
            boxes, scores = found.boxes.astype(float).tolist(), found.scores.astype(float).tolist()
            rows.append({"boxes": boxes, "scores": scores, "classes": [names[n - 1] for n in found.labels.tolist()]})
        if broken.reasons:
            raise ValueError("; ".join(f"{name}: {reason}" for name, reason in broken.reasons.items()))
        return pd.DataFrame(rows, columns=["boxes", "scores", "classes"])


mlflow.models.set_model(ServedDetector())
