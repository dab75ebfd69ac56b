"""Per-image losses of torchvision's detectors, tried with torchvision 0.29.

    losses = ImageLosses(model)                # once; FCOS, RetinaNet or Faster R-CNN
    loss = sum(model(images, targets).values())
    sampler.update(losses.scores(), indices)

They come from the forward pass of the training step: torchvision's own loss functions are called again on the outputs
of one image at a time, without gradients. The training loss stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.roi_heads import fastrcnn_loss

from isod.errors import InputError


class ImageLosses:
    """Records each image's loss in a detector's training forward pass.

    Args:
        model: of torchvision; the methods that compute its losses are extended.

    Raises:
        InputError: the model is not FCOS, RetinaNet or Faster R-CNN, or predicts masks or keypoints too.
    """

    def __init__(self, model: nn.Module):
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}  # loss of each image alone [B], its share of the batch's [B]
        if isinstance(model, (FCOS, RetinaNet)):
            self._fcos = isinstance(model, FCOS)
            self._head_loss, model.head.compute_loss = model.head.compute_loss, self._one_stage
        elif isinstance(model, FasterRCNN) and not (model.roi_heads.has_mask() or model.roi_heads.has_keypoint()):
            self._rpn, self._rpn_loss, model.rpn.compute_loss = model.rpn, model.rpn.compute_loss, self._proposals
            self._select = model.roi_heads.select_training_samples
            model.roi_heads.select_training_samples = self._samples
            model.roi_heads.box_predictor.register_forward_hook(self._boxes)
        else:
            raise InputError(
                f"per-image losses are there for FCOS, RetinaNet and Faster R-CNN, not {type(model).__name__}"
            )

    def scores(self) -> Tensor:
        """Return each image's loss as if it were alone in its batch, [B], detached."""
        return torch.stack([alone for alone, _ in self._parts.values()]).sum(0)

    def shares(self) -> Tensor:
        """Return what each image contributes to the batch's loss, [B], detached; they sum to the library's loss."""
        return torch.stack([alone * share for alone, share in self._parts.values()]).sum(0)

    def _one_stage(self, targets: Any, outputs: dict[str, Tensor], anchors: Any, matched: list[Tensor]) -> Any:
        with torch.no_grad():
            alone = [
                sum(
                    self._head_loss(
                        [targets[i]], {k: v[i : i + 1] for k, v in outputs.items()}, [anchors[i]], [matched[i]]
                    ).values()
                )
                for i in range(len(targets))
            ]
            if self._fcos:  # divides by the foreground of the batch; RetinaNet by that of each image
                share = _share([int((index >= 0).sum()) for index in matched])
            else:
                share = torch.full((len(targets),), 1 / len(targets))
            self._parts["head"] = _both(alone, share)
        return self._head_loss(targets, outputs, anchors, matched)

    def _proposals(
        self, objectness: Tensor, deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> Any:
        sampler, images = self._rpn.fg_bg_sampler, len(labels)
        positive, negative = sampler(labels)  # drawn at random: once for the batch and its images
        try:
            self._rpn.fg_bg_sampler = lambda _: (positive, negative)
            losses = self._rpn_loss(objectness, deltas, labels, regression_targets)
            alone = []
            with torch.no_grad():
                parts = zip(
                    objectness.reshape(images, -1), deltas.reshape(images, -1, 4), labels, regression_targets,
                    positive, negative, strict=True,
                )  # fmt: skip
                for one_objectness, one_deltas, label, target, one_positive, one_negative in parts:
                    self._rpn.fg_bg_sampler = lambda _, p=one_positive, n=one_negative: ([p], [n])
                    alone.append(sum(self._rpn_loss(one_objectness, one_deltas, [label], [target])))
        finally:
            self._rpn.fg_bg_sampler = sampler
        sampled = [int(p.sum() + n.sum()) for p, n in zip(positive, negative, strict=True)]
        self._parts["proposals"] = _both(alone, _share(sampled))
        return losses

    def _samples(self, *args: Any) -> Any:
        selected = self._select(*args)
        self._labels, self._regression_targets = selected[2], selected[3]
        return selected

    @torch.no_grad()
    def _boxes(self, predictor: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        if not predictor.training:
            return
        counts = [len(labels) for labels in self._labels]
        parts = zip(
            outputs[0].split(counts), outputs[1].split(counts), self._labels, self._regression_targets, strict=True
        )
        alone = [sum(fastrcnn_loss(logits, boxes, [label], [target])) for logits, boxes, label, target in parts]
        self._parts["boxes"] = _both(alone, _share(counts))


def _share(counts: Sequence[int]) -> Tensor:
    """Return each image's normaliser over the batch's, [B]."""
    normalisers = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
    return normalisers / max(1, sum(counts))


def _both(alone: list[Any], share: Tensor) -> tuple[Tensor, Tensor]:
    losses = torch.stack(alone).detach().float()
    return losses, share.to(losses)
