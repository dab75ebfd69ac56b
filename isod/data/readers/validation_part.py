"""Cutting a validation split from a dataset that has one split only."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from isod.data.faults import Fault
from isod.data.readers import BY, By
from isod.data.readers.base import FrameRef, Reader
from isod.errors import InputError, require
from isod.vocabulary import Split

LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


class ValidationPartReader:
    """A reader whose training split gives a share of its frames, chosen by the hash of their names, to validation."""

    def __init__(self, reader: Reader, share: float, by: By = "frame") -> None:
        """Cut the training split of ``reader``, which has no validation split.

        A frame, or a sequence, that is in one part stays there when others are added.

        Args:
            share: of the frames, in (0, 1).
            by: "frame" cuts frame by frame. "sequence" keeps those of a sequence together, see ``sequences``.
        Raises:
            InputError: the share is not in (0, 1), the dataset has a validation split or too few frames or sequences.
        """
        require(0 < share < 1, "--val-share must be in (0, 1)", share)
        require(by in BY, f"--val-by must be one of {', '.join(BY)}", by)
        if reader.frames("val"):
            raise InputError(
                "--val-share is for a dataset without a validation split, and this one has one: leave it out"
            )
        self._reader, self._share, self._by = reader, share, by
        self.class_names, self.source, self.demo = reader.class_names, reader.source, reader.demo
        frames = reader.frames("train")
        ids = [frame.frame_id for frame in frames]
        groups = ids if by == "frame" else sequences(ids, named_sequences(frames))
        in_val = _chosen(groups, share)
        if not in_val:
            raise InputError(
                f"--val-by {by} needs at least two {by}s, and the {len(ids)} frames show "
                f"{len(set(groups))}, such as {groups[0]!r:.100}: cut by frame, or make the splits yourself"
                if groups
                else "split 'train' of the dataset has no frames"
            )
        self._places: dict[Split, list[int]] = {"train": [], "val": []}
        for place, group in enumerate(groups):
            self._places["val" if group in in_val else "train"].append(place)

    @property
    def settings(self) -> dict[str, object]:
        """Those of the reader, and how the validation part is cut."""
        return {**self._reader.settings, "val_share": self._share, "val_by": self._by}

    @property
    def notes(self) -> list[str]:
        """Those of the reader, and the size of the validation part."""
        count, total = len(self._places["val"]), sum(map(len, self._places.values()))
        return [*self._reader.notes, f"note: validation part: {count} of {total} frames, chosen by {self._by}"]

    def frames(self, split: Split) -> Sequence[FrameRef]:
        """Return the frames of a part, in the reader's order."""
        return self._frames[split]

    @cached_property
    def _frames(self) -> dict[Split, list[FrameRef]]:
        frames = self._reader.frames("train")
        return {split: [frames[place] for place in places] for split, places in self._places.items()}

    def known_faults(self, split: Split) -> list[Fault] | None:
        """Return the known faults of a part's frames."""
        faults = self._reader.known_faults("train")
        if faults is None:
            return None
        moved = {place: index for index, place in enumerate(self._places[split])}
        return [replace(fault, index=moved[fault.index]) for fault in faults if fault.index in moved]


def named_sequences(frames: Sequence[FrameRef]) -> list[str]:
    """Return the sequence that the dataset itself gives each frame; none at all unless it gives all of them one."""
    named = [getattr(frame, "sequence", "") for frame in frames]
    return named if all(named) else []


def sequences(frame_ids: Sequence[str], named: Sequence[str] = ()) -> list[str]:
    """Return the sequence of each frame: as the dataset names it, else its folder where the frames are in several, else
    its name without the last number.

    Args:
        named: of each frame, as ``named_sequences`` returns it.
    """
    if named:
        return list(named)
    folders = [os.path.dirname(frame_id) for frame_id in frame_ids]
    if len(set(folders)) > 1:
        return folders
    return [LAST_NUMBER.sub("", os.path.basename(os.path.splitext(frame_id)[0])) for frame_id in frame_ids]


def _chosen(groups: Sequence[str], share: float) -> set[str]:
    """Return the groups whose hash is below the share; at least one, and not all. None where there is one group."""
    ranks: dict[str, float] = {}
    for group in groups:
        if group not in ranks:
            ranks[group] = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
    if len(ranks) < 2:
        return set()
    ordered = sorted(ranks, key=lambda group: (ranks[group], group))
    count = sum(rank < share for rank in ranks.values())
    return set(ordered[: min(max(count, 1), len(ordered) - 1)])
