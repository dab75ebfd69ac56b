"""The annotated objects of a batch: padded once, where a batch is read, and passed on as one block.

The store's reader, the stream, the loss and the evaluator all take this form: numpy arrays until the batch reaches the
training device, torch tensors there. Importing this module does not import torch, as decode workers do without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Objects:
    """The objects of B images, M ≥ 1 places for each; numpy arrays, or torch tensors on one device."""

    boxes: Any  # [B, M, 4] float32, xyxy pixels of the image; 0 where padded
    labels: Any  # [B, M] int64, 1…C; 0 for don't-care and padding
    dont_care: Any  # [B, M] bool, class unknown; False where padded
    counts: Any  # [B] int64, objects of each image; the places behind them are padding

    @classmethod
    def from_flat(cls, boxes: NDArray, labels: NDArray, dont_care: NDArray, counts: NDArray) -> Objects:
        """Pad the objects of all images, given one image after the other; the label of don't-care objects becomes 0.

        Args:
            boxes: [N, 4]; labels, dont_care: [N]; counts: [B], which add up to N.
        """
        counts = np.asarray(counts, np.int64)
        places = max(1, int(counts.max(initial=0)))
        valid = np.arange(places) < counts[:, None]  # [B, M]
        blocks = np.zeros((*valid.shape, 4), np.float32), np.zeros(valid.shape, np.int64), np.zeros(valid.shape, bool)
        for block, values in zip(blocks, (boxes, np.where(dont_care, 0, labels), dont_care), strict=True):
            block[valid] = values
        return cls(*blocks, counts)

    @classmethod
    def from_lists(
        cls, boxes: Sequence[NDArray], labels: Sequence[NDArray], dont_care: Sequence[NDArray] | None = None
    ) -> Objects:
        """Pad one [n, 4], one [n] and one [n] array per image; without ``dont_care`` every class is known."""
        counts = np.array([len(item) for item in labels], np.int64)
        if dont_care is None:
            dont_care = [np.zeros(count, bool) for count in counts]
        flat_boxes = np.concatenate([np.reshape(item, (-1, 4)) for item in boxes]) if len(boxes) else np.zeros((0, 4))
        flat_labels, flat_dont_care = (np.concatenate([[], *part]) for part in (labels, dont_care))
        return cls.from_flat(flat_boxes, flat_labels, flat_dont_care.astype(bool), counts)

    @classmethod
    def from_targets(cls, targets: Sequence[Mapping[str, Any]]) -> Objects:
        """Pad torchvision's form: one dict an image, on any device.

        Args:
            targets: ``boxes`` [n, 4] xyxy pixels, ``labels`` [n] 1…C, and ``dont_care`` [n] bool, all False if absent.
        Raises:
            ValueError: a key is missing or shapes do not fit together, with the image's number.
        """
        parts: list[tuple[NDArray, NDArray, NDArray]] = []
        for number, target in enumerate(targets):
            if missing := sorted({"boxes", "labels"} - set(target)):
                raise ValueError(f"targets[{number}] lacks {', '.join(missing)}")
            boxes, labels = _as_numpy(target["boxes"]), _as_numpy(target["labels"])
            n = len(labels) if labels.ndim == 1 else -1
            dont_care = _as_numpy(target["dont_care"]) if "dont_care" in target else np.zeros(labels.shape, bool)
            if boxes.size == 0 and n == 0:
                boxes = boxes.reshape(0, 4)  # torchvision accepts [0] for no boxes
            if boxes.shape != (n, 4) or dont_care.shape != (n,):
                raise ValueError(
                    f"targets[{number}]: boxes, labels and dont_care must have shapes [n, 4], [n] and [n], "
                    f"got {list(boxes.shape)}, {list(labels.shape)} and {list(dont_care.shape)}"
                )
            parts.append((boxes, labels, dont_care))
        boxes_, labels_, dont_care_ = zip(*parts, strict=True) if parts else ((), (), ())
        return cls.from_lists(boxes_, labels_, dont_care_)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, images: Any) -> Objects:
        """Return the objects of the images that a slice, mask or index array selects."""
        return Objects(self.boxes[images], self.labels[images], self.dont_care[images], self.counts[images])

    def of(self, image: int) -> tuple[Any, Any, Any]:
        """Return boxes [n, 4], labels [n] and don't-care marks [n] of one image."""
        n = int(self.counts[image])
        return self.boxes[image, :n], self.labels[image, :n], self.dont_care[image, :n]

    def emptied(self, images: NDArray[np.bool_]) -> Objects:
        """Return the objects (numpy) without those of the images that a mask [B] marks."""
        if not images.any():
            return self
        blocks = [block.copy() for block in (self.boxes, self.labels, self.dont_care, self.counts)]
        for block in blocks:
            block[images] = 0
        return Objects(*blocks)

    @property
    def valid(self) -> Any:
        """[B, M] bool, False where padded."""
        places = self.labels.shape[1]
        if isinstance(self.counts, np.ndarray):
            return np.arange(places) < self.counts[:, None]
        import torch

        return torch.arange(places, device=self.counts.device) < self.counts[:, None]

    def to(self, device: torch.device) -> Objects:
        """Return the objects as tensors on a device; the copy does not wait for the host where memory is pinned."""
        import torch

        def move(item: Any) -> torch.Tensor:
            if isinstance(item, np.ndarray):  # what Ray hands over is read-only
                item = torch.from_numpy(item if item.flags.writeable else item.copy())
            return item.to(device, non_blocking=True)

        return Objects(move(self.boxes), move(self.labels), move(self.dont_care), move(self.counts))

    def area(self) -> Any:
        """Return the area of each box in pixels², [B, M] float32; 0 where padded. Tensors only."""
        width, height = (self.boxes[..., 2:] - self.boxes[..., :2]).unbind(-1)
        return width * height

    def mirrored(self, flip: torch.Tensor, width: int) -> Objects:
        """Return the objects after the images with ``flip`` [B] bool were mirrored left to right. Tensors only.

        Args:
            width: of the images, pixels.
        """
        import torch

        x1, y1, x2, y2 = self.boxes.unbind(-1)
        boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
        return replace(self, boxes=torch.where((flip[:, None] & self.valid)[..., None], boxes, self.boxes))


def _as_numpy(value: Any) -> NDArray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
