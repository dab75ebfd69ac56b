"""Which location learns which object, and what it should predict there (thesis §2.2.5, eq. 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from isod.detector.locations import Targets
from isod.objects import Objects

STRIDE = 8  # pixels between neighbouring locations of the prediction map
MARGIN = 0.5  # strides that a location may lie outside of the box it predicts; see decode_boxes


def location_centres(size: tuple[int, int], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Pixel y [h] and x [w] that the rows and columns of the map stand for: s/2 + i·s, s/2 + j·s."""
    h, w = size
    y = torch.arange(h, dtype=torch.float32, device=device) * STRIDE + STRIDE / 2
    x = torch.arange(w, dtype=torch.float32, device=device) * STRIDE + STRIDE / 2
    return y, x


def assign_targets(objects: Objects, size: tuple[int, int]) -> Targets:
    """Gives every location its object: the smallest box that it lies strictly inside of (thesis §2.2.5).

    A box that holds no location at all is given the location nearest to its centre, unless a smaller one has it: then
    no location learns it, as any box that smaller ones cover. That location lies at most half a stride outside of the
    box, which ``decode_boxes`` allows for; otherwise every object narrower than 8 pixels might be impossible to find.

    Args:
        objects: the batch's objects; boxes in pixels of the image that the map of ``size`` (h, w) belongs to.
    Returns:
        Dense targets on the objects' device; no host synchronisation.
    """
    h, w = size
    y, x = location_centres(size, objects.boxes.device)
    every = objects.valid
    order = torch.where(every, objects.area(), torch.inf).argsort(dim=1, stable=True)  # [B, M] smallest first
    boxes = objects.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    valid = every.gather(1, order)
    dont_care = objects.dont_care.gather(1, order)
    x1, y1, x2, y2 = boxes[..., None].unbind(2)  # each [B, M, 1]
    in_x = (x > x1) & (x < x2)  # [B, M, w]
    in_y = (y > y1) & (y < y2)  # [B, M, h]
    empty = ~(in_x.any(-1) & in_y.any(-1))[..., None]  # [B, M, 1]
    nearest_j = ((x1 + x2) / (2 * STRIDE)).long().clamp(0, w - 1)
    nearest_i = ((y1 + y2) / (2 * STRIDE)).long().clamp(0, h - 1)
    in_x = torch.where(empty, torch.arange(w, device=x.device) == nearest_j, in_x) & valid[..., None]
    in_y = torch.where(empty, torch.arange(h, device=y.device) == nearest_i, in_y)
    inside = in_y[..., :, None] & in_x[..., None, :]  # [B, M, h, w]

    count = boxes.shape[1]
    rank = torch.arange(count, dtype=torch.int16, device=x.device)[:, None, None]
    rank = torch.where(inside, rank, torch.full_like(rank, count)).amin(dim=1).long()  # [B, h, w]
    owned = rank < count
    flat = rank.clamp(max=count - 1).flatten(1)  # [B, h·w]
    object_index = torch.where(owned, order.gather(1, flat).view_as(rank), -1)
    labels = torch.where(owned, objects.labels.gather(1, order.gather(1, flat)).view_as(rank), 0)
    target_boxes = boxes.gather(1, flat[..., None].expand(-1, -1, 4)).view(*rank.shape, 4) * owned[..., None]
    care = ~(inside & dont_care[..., None, None]).any(dim=1)
    return Targets(object_index, torch.where(care, labels, 0), care, target_boxes)


def decode_boxes(offsets: Tensor) -> Tensor:
    """Turns predicted offsets into boxes; the inverse of eq. 2.4.

    The network says l, t, r, b ≥ 0 in strides, measured from ``MARGIN`` strides beyond the location: a side is at
    location ∓ (offset − MARGIN)·s. With eq. 2.4's own zero a box could not end before its location, and an object that
    lies between four locations could never be matched. Sides that cross are put in order.

    Args:
        offsets: [B, 4, h, w] float32 ≥ 0, in the order l, t, r, b, in strides.
    Returns:
        [B, h, w, 4] float32, xyxy pixels, not clipped to the image.
    """
    y, x = location_centres((offsets.shape[2], offsets.shape[3]), offsets.device)
    left, top, right, bottom = ((offsets.float() - MARGIN) * STRIDE).unbind(1)  # each [B, h, w]
    x1, x2 = x - left, x + right
    y1, y2 = y[:, None] - top, y[:, None] + bottom
    return torch.stack(
        [torch.minimum(x1, x2), torch.minimum(y1, y2), torch.maximum(x1, x2), torch.maximum(y1, y2)], dim=-1
    )


def encode_boxes(boxes: Tensor) -> Tensor:
    """Offsets that make ``decode_boxes`` return ``boxes`` [B, h, w, 4] at every location: [B, 4, h, w], eq. 2.4."""
    y, x = location_centres((boxes.shape[1], boxes.shape[2]), boxes.device)
    x1, y1, x2, y2 = boxes.unbind(-1)
    distances = torch.stack([x - x1, y[:, None] - y1, x2 - x, y2 - y[:, None]], dim=1)
    return distances / STRIDE + MARGIN
