"""What the training loop needs of a detector, and the detectors that have a name.

To add one, write a builder ``(config, num_classes, seed) -> DetectorModel`` and give it a row of ``DETECTORS``. A
builder in somebody else's package needs no row: name it ``package.module:function`` in ``DetectorConfig.name``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from isod.config.settings import DetectorConfig, TrainingConfig
from isod.errors import InputError
from isod.plugins import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from isod.objects import Objects
    from isod.outcome import Outcome


@dataclass(frozen=True)
class DetectionLoss:
    """Scalars of one batch, with gradient; the loop trains on λ_cls · class_loss + λ_reg · box_loss + extra."""

    class_loss: Tensor
    box_loss: Tensor
    extra: Tensor | None = None  # terms beside the two, such as a centre-ness loss; None for none


class DetectorModel(Protocol):
    """A detector as the training loop uses it; also a ``torch.nn.Module``, whose ``forward`` is what gets compiled."""

    provides: frozenset[str]  # what its outcomes hold beside the losses: "logits", "iou"

    def loss(
        self, images: Tensor, objects: Objects, *, example_weights: Tensor | None = None
    ) -> tuple[DetectionLoss, Outcome]:
        """Return the loss of a batch and what the same forward pass says of each location.

        Called under autocast on a GPU: losses are float32 all the same.

        Args:
            images: [B, 3, H, W] uint8 RGB, channels-last.
            objects: tensors on the images' device; boxes in pixels. Don't-care objects never train the class.
            example_weights: [B], multiplies each image's share of the loss; None for ones.
        """
        ...

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the detections above ``DetectorConfig.score_floor`` of each image, torchvision's form, on the CPU.

        One dict an image: ``boxes`` [n, 4] float32 xyxy pixels, ``scores`` [n] float32, ``labels`` [n] int64 in 1…C.
        """
        ...


# Name → builder (config, num_classes, seed), as package.module:function: a driver knows the names without torch.
DETECTORS: dict[str, str] = {
    "thesis": "isod.detector.thesis.model:build",
    "detr": "isod.detector.detr:build",
}


def build_detector(config: DetectorConfig, num_classes: int, *, seed: int) -> Any:
    """Return the detector that the settings name, a DetectorModel and ``torch.nn.Module`` on the CPU.

    Args:
        num_classes: C, without the background.
        seed: of the initial weights; two calls with the same one give the same weights.
    Raises:
        InputError: there is no such detector, or what was built is none.
    """
    builder: Any = resolve("detector", config.name, DETECTORS)
    model = builder(config, num_classes, seed)
    missing = [name for name in ("loss", "detect", "state_dict") if not callable(getattr(model, name, None))]
    if missing:
        raise InputError(
            f"detector {config.name!r} built a {type(model).__name__} without {', '.join(missing)}: a detector is a "
            "torch.nn.Module with the methods loss and detect (isod.detector.model.DetectorModel)"
        )
    return model


def configure_loss(
    model: Any, training: TrainingConfig, *, sum_counts: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Hand a detector the settings of its training loss, if it takes any: a method ``configure_loss``.

    Args:
        sum_counts: where this process trains on a part of each batch, makes what the part counts that of the whole.
    Raises:
        InputError: settings other than the defaults, of a detector that takes none.
    """
    if hasattr(model, "configure_loss"):
        model.configure_loss(normalisation=training.loss_normalisation, sum_counts=sum_counts)
        return
    name = type(model).__name__
    if training.loss_normalisation != "location":
        raise InputError(f"{name} has no choice of loss_normalisation: leave it at 'location'")
    if sum_counts is not None:
        raise InputError(f"{name} cannot share a batch among several workers: set workers_per_trial to 1")
