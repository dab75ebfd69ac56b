"""What the training loop needs of a detector, and the detectors that have a name.

To add one, write a builder ``(config, num_classes, seed) -> DetectorModel`` and give it a row of ``DETECTORS``. A
builder in somebody else's package needs no row: name it ``package.module:function`` in ``DetectorConfig.name``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from isod.config.settings import DetectorConfig, TrainingConfig
from isod.errors import InputError, one_line
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
    """A detector as the training loop uses it; also a ``torch.nn.Module``, whose ``forward`` is what gets compiled.

    A detector that can be exported (`isod export`) has one method more, ``candidates(images)``: what comes before NMS,
    in operations that ``torch.export`` can trace. Of images [B, 3, H, W] uint8 it returns scores [B, C, L] float32 in
    0…1 and boxes [B, L, 4] float32 xyxy pixels, clipped to the image; [B, C, L, 4] where each class has its own.
    """

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
    "fcos": "isod.detector.torchvision.fcos:build",
    "retinanet": "isod.detector.torchvision.retinanet:build",
    "ssdlite": "isod.detector.torchvision.ssdlite:build",
    "faster_rcnn": "isod.detector.torchvision.faster_rcnn:build",
    "detr": "isod.detector.detr:build",
}


def build_detector(config: DetectorConfig, num_classes: int, *, seed: int) -> Any:
    """Return the detector that the settings name, a DetectorModel and ``torch.nn.Module`` on the CPU.

    Args:
        num_classes: C, without the background.
        seed: of the initial weights; two calls with the same one give the same weights.
    Raises:
        InputError: there is no such detector, building it failed, what was built is none, or ``config.weights`` does
            not fit it.
    """
    builder: Any = resolve("detector", config.name, DETECTORS)
    try:
        model = builder(config, num_classes, seed)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"detector {config.name!r} cannot be built ({type(error).__name__}: {one_line(error)}): its builder is "
            "called with the detector settings, the number of classes and a seed"
        ) from error
    missing = [name for name in ("loss", "detect", "state_dict") if not callable(getattr(model, name, None))]
    if missing:
        raise InputError(
            f"detector {config.name!r} built a {type(model).__name__} without {', '.join(missing)}: a detector is a "
            "torch.nn.Module with the methods loss and detect (isod.detector.model.DetectorModel)"
        )
    if config.weights:
        from isod.detector.weights import load_weights

        load_weights(model, config.weights)
    return model


def configure_loss(
    model: Any, training: TrainingConfig, *, sum_counts: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Hand a detector the settings of its training loss that it takes, as arguments of its method ``configure_loss``.

    The method has any of the arguments ``normalisation`` (TrainingConfig.loss_normalisation), ``regions``
    (RegionConfig) and ``sum_counts``; a detector without the method takes none.

    Args:
        sum_counts: where this process trains on a part of each batch, makes what the part counts that of the whole.
    Raises:
        InputError: a setting other than the default that the detector does not take.
    """
    configure = getattr(model, "configure_loss", None)
    takes = inspect.signature(configure).parameters if configure is not None else {}
    name, default = type(model).__name__, TrainingConfig()
    given: dict[str, Any] = {}
    for argument, value, usual, rule in (
        ("normalisation", training.loss_normalisation, default.loss_normalisation,
         f"has no choice of loss_normalisation: leave it at {default.loss_normalisation!r}"),
        ("regions", training.regions, default.regions,
         f"cannot train on chosen regions: leave regions.method at {default.regions.method!r}"),
        ("sum_counts", sum_counts, None, "cannot share a batch among several workers: set workers_per_trial to 1"),
    ):  # fmt: skip
        if argument in takes:
            given[argument] = value
        elif value != usual:
            raise InputError(f"{name} {rule}")
    if configure is not None:
        configure(**given)
