"""The packages that `pip install isod` does not bring, and the extra that brings each."""

from __future__ import annotations

_TRAIN = ("torch", "torchvision", "lance", "pyarrow", "simplejpeg", "PIL", "pandas", "safetensors", "rich", "yaml")
_EVALUATE = ("pycocotools", "matplotlib", "jinja2")
_GRID = ("ray", "mlflow", "sqlalchemy", "scipy", "psutil")
_EXPORT = ("onnx", "onnxscript", "onnxruntime")
EXTRAS = (
    dict.fromkeys(_TRAIN, "train")
    | dict.fromkeys(_EVALUATE, "evaluate")
    | dict.fromkeys(_GRID, "grid")
    | dict.fromkeys(_EXPORT, "export")
    | {
        "av": "video",
        "boto3": "s3",
        "shtab": "completion",
        "optuna": "search",
        "transformers": "detr",
        "zod": "zod",
        "dataclass_wizard": "zod",
    }
)


def missing(who: str, error: ModuleNotFoundError) -> str | None:
    """Return "isod sweep needs ray: pip install 'isod[grid]'"; None for a module that no extra brings.

    Args:
        who: the command or the name that was asked for.
    """
    module = (error.name or "").partition(".")[0]
    return f"{who} needs {module}: pip install 'isod[{EXTRAS[module]}]'" if module in EXTRAS else None
