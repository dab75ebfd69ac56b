"""A trained detector on disk: a folder with ``model.safetensors`` and ``model.json``, which is all that using it needs.

Triage, and whatever else uses a trained model, opens this folder; nothing is rebuilt from MLflow parameters.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isod.config.settings import DetectorConfig
from isod.detector.model import build_detector
from isod.errors import InputError, one_line
from isod.files import MAX_JSON, atomic_folder, parse_json, read_file

if TYPE_CHECKING:
    import torch

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT, FORMAT_VERSION = "isod model", 1


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What model.json says: everything that using the weights needs."""

    detector: DetectorConfig
    class_names: tuple[str, ...]  # classes 1…C
    crop_size: tuple[int, int]  # (height, width) of its training crops, pixels
    preparation: dict[str, Any] = field(default_factory=dict)  # of those crops: roi, tiles, resize, min_visible, exif
    demo: bool = False  # trained on synthetic stand-in data
    commit: str = "unknown"  # of the isod that trained it
    run: dict[str, Any] = field(default_factory=dict)  # sampler, seed and iterations
    threshold: float | None = None  # score with the highest F1 on the validation split, all classes together

    @property
    def shown_from(self) -> float:
        """The least score of a detection that people are shown."""
        return self.detector.display_threshold if self.threshold is None else self.threshold


def save_model(folder: Path, model: torch.nn.Module, description: ModelDescription) -> None:
    """Write the folder, complete or not at all; one that is there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in model.state_dict().items():
        whole = value.detach().cpu().contiguous()
        if (start := whole.untyped_storage().data_ptr()) in taken:  # tied weights, which the format writes apart
            whole = whole.clone()
        taken.add(start)
        tensors[name] = whole
    weights = save(tensors)
    text = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(description)}, indent=1)
    with atomic_folder(folder) as part:
        (part / WEIGHTS).write_bytes(weights)
        (part / DESCRIPTION).write_text(text)


def describe_model(folder: Path | str) -> ModelDescription:
    """Read model.json alone.

    Raises:
        InputError: the folder holds no model, or one that this isod does not read.
    """
    path = Path(folder) / DESCRIPTION
    try:
        content = parse_json(read_file(path, MAX_JSON))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise InputError(f"{path} was not written by isod, so {folder} is not a saved model")
        if (version := content.pop("format_version", None)) != FORMAT_VERSION:
            raise InputError(
                f"the saved model {folder} has format version {version!r:.20}, and this isod reads version "
                f"{FORMAT_VERSION}: use the isod that wrote it"
            )
        known = {item.name for item in fields(DetectorConfig)}
        detector = content.pop("detector")
        if strange := sorted(detector.keys() - known):
            raise InputError(f"{path}: this isod knows no detector setting {strange[0]!r}: use the isod that wrote it")
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in detector.items()
        }
        class_names, (height, width) = tuple(content.pop("class_names")), content.pop("crop_size")
        return ModelDescription(
            detector=DetectorConfig(**settings), class_names=class_names, crop_size=(height, width), **content
        )
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{folder} is not a saved model: {path} cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {one_line(error)})") from None


def load_model(folder: Path | str, **settings: Any) -> tuple[Any, ModelDescription]:
    """Return a saved detector, a DetectorModel in evaluation mode on the CPU, and its description.

    Args:
        settings: fields of DetectorConfig that replace the saved ones, such as ``nms_threshold``.
    Raises:
        InputError: the folder holds no model, its detector does not exist here, or its weights are damaged or of
            another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    description = describe_model(folder)
    description = replace(description, detector=replace(description.detector, **settings))
    path = Path(folder) / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"the weights {path} cannot be read: {one_line(error)}") from None
    model = build_detector(description.detector, len(description.class_names), seed=0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the weights {path} do not fit the detector that {DESCRIPTION} describes: {reason}") from None
    return model.eval(), description
