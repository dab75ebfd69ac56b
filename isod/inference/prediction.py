"""A trained model on whole frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import FrameError
from isod.detector.boxes import within
from isod.detector.saved import ModelDescription, describe_model, load_model
from isod.errors import require, unknown
from isod.inference.sources import Broken, NamedFrame, Source
from isod.inference.tiles import Crop, Detections, cut, join, preparation_settings


@dataclass
class _Pending:
    """A frame some of whose crops the network has not seen yet."""

    item: NamedFrame
    crops: list[Crop]
    found: list[Detections] = field(default_factory=list)


class Predictor:
    """A saved model, ready to predict."""

    def __init__(
        self,
        folder: Path | str,
        *,
        device: torch.device | str = "cpu",
        confidence: float | None = None,
        iou: float | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 16,
    ) -> None:
        """Open the folder of a saved model.

        Args:
            confidence: least score of a detection; by default the model's own, ``shown_from``.
            iou: above which NMS drops the weaker of two detections; by default the model's ``nms_threshold``.
            classes: names of those to keep; by default all.
            batch_size: crops in one forward pass.
        Raises:
            InputError: as ``load_model``, or a value out of range, or a class that the model does not know.
        """
        require(confidence is None or 0 < confidence < 1, "--conf must be in (0, 1)", confidence)
        require(iou is None or 0 < iou < 1, "--iou must be in (0, 1)", iou)
        require(batch_size >= 1, "--batch-size must be ≥ 1", batch_size)
        saved = describe_model(folder)
        self.confidence = saved.shown_from if confidence is None else confidence
        changes = {"score_floor": min(saved.detector.score_floor, self.confidence)}
        if iou is not None:
            changes["nms_threshold"] = iou
        for name in classes or ():
            if name not in saved.class_names:
                raise unknown("class", name, saved.class_names)
        self.preparation = preparation_settings(saved.preparation)
        model, self.description = load_model(folder, **changes)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.model: Any = model.to(self.device).to(memory_format=torch.channels_last)
        self._labels = [saved.class_names.index(name) + 1 for name in classes] if classes else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes 1…C."""
        return self.description.class_names

    def predict(self, source: Source, broken: Broken | None = None) -> Iterator[tuple[NamedFrame, Detections]]:
        """Yield each frame of a source, in order, with its detections in pixels of the whole frame.

        Frames are turned by their EXIF orientation, and cut, as the model's training frames were; the crops of a store
        are taken as they are. Boxes of a turned picture are in pixels of the upright one. Which crops
        share a forward pass changes a score by float noise alone.

        Args:
            broken: gets the frames that cannot be used.
        """
        broken = Broken() if broken is None else broken
        settings = PrepareSettings() if source.cropped else self.preparation
        return self._joined(self._cut(source.frames(broken, self.preparation.exif), settings, broken))

    def _cut(self, frames: Iterable[NamedFrame], settings: PrepareSettings, broken: Broken) -> Iterator[_Pending]:
        for item in frames:
            try:
                yield _Pending(item, cut(item.frame, settings))
            except FrameError as reason:
                broken.add(item.file_name, reason)

    def _joined(self, frames: Iterable[_Pending]) -> Iterator[tuple[NamedFrame, Detections]]:
        waiting: deque[_Pending] = deque()
        batch: list[tuple[_Pending, Crop]] = []

        def finished() -> Iterator[tuple[NamedFrame, Detections]]:
            while waiting and len(waiting[0].found) == len(waiting[0].crops):
                done = waiting.popleft()
                yield done.item, join(done.crops, done.found)

        for frame in frames:
            waiting.append(frame)
            for crop in frame.crops:
                if batch and (len(batch) == self.batch_size or self._canvas(batch[0][1]) != self._canvas(crop)):
                    self._detect(batch)
                    batch = []
                batch.append((frame, crop))
            yield from finished()
        if batch:
            self._detect(batch)
        yield from finished()

    def _canvas(self, crop: Crop) -> tuple[int, int]:
        """Return the (height, width) of what the network gets: the training crops', or more for a larger crop."""
        (height, width), (h, w) = self.description.crop_size, crop.pixels.shape[:2]
        return max(height, h), max(width, w)

    def _detect(self, batch: Sequence[tuple[_Pending, Crop]]) -> None:
        """Run the network on crops of one canvas; smaller ones lie top left on black, as in training."""
        pixels = np.zeros((len(batch), *self._canvas(batch[0][1]), 3), np.uint8)
        for place, (_, crop) in zip(pixels, batch, strict=True):
            place[: crop.pixels.shape[0], : crop.pixels.shape[1]] = crop.pixels
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)  # HWC is channels-last
        with torch.inference_mode():
            found = self.model.detect(images)
        for (frame, crop), item in zip(batch, found, strict=True):
            frame.found.append(self._kept(item, crop))

    def _kept(self, item: dict[str, torch.Tensor], crop: Crop) -> Detections:
        """Return the detections that were asked for, clipped to the crop without its padding."""
        inside = within(item, *crop.pixels.shape[:2])
        boxes, scores, labels = (inside[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
        keep = scores >= self.confidence
        if self._labels is not None:
            keep &= np.isin(labels, self._labels)
        return Detections(boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64))[keep]


def note_on_source(description: ModelDescription, source: Source) -> str:
    """Return a sentence if a store was prepared otherwise than what the model was trained on; "" if not."""
    if not source.cropped:
        return ""
    meta = source.split.meta  # type: ignore[attr-defined]
    pairs = {name: (meta.settings.get(name), description.preparation.get(name)) for name in ("roi", "tiles", "resize")}
    differences = ", ".join(f"{name} {one} there and {two} here" for name, (one, two) in pairs.items() if one != two)
    if not differences:
        return ""
    return f"the store's crops were not prepared as those that the model was trained on: {differences}"
