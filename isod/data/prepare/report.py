"""The report of a prepare job: objects by class and size, and the frames that were lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isod.data.prepare.crop import ODD, ODD_IN_TURNED
from isod.data.store.meta import META_FILE, StoreMeta
from isod.vocabulary import DONT_CARE, SIZES, SPLITS

LISTED = 20  # lost frames that a report names; store.json has them all


@dataclass(frozen=True)
class PrepareReport:
    """What a call to ``prepare`` did. As text: the table of objects, the reader's notes and the lost frames."""

    store: str  # its address
    meta: StoreMeta
    seconds: float  # of this call
    resumed: int  # chunks kept from an interrupted call
    complete_before: bool  # the store was finished already, so this call did nothing
    notes: Sequence[str] = ()  # of the reader

    def __str__(self) -> str:
        lines = [format_counts(self.meta), "", *self.notes, *_remark_lines(self.meta), *_lost_lines(self.meta)]
        if self.complete_before:
            lines.append(f"{self.store} is complete already: {self.meta.crops}")
        else:
            again = f", with {self.resumed} chunks kept from an interrupted call" if self.resumed else ""
            lines.append(f"{self.store}: {self.meta.crops} in {self.seconds:.0f} s{again}")
        return "\n".join(lines)


def format_counts(meta: StoreMeta) -> str:
    """Return a table of the objects per class and size, "train (val)", in the layout of the thesis's Table 4.2."""
    header = ["", *(size.capitalize() for size in reversed(SIZES))]
    table = [header]
    for name in (*meta.class_names, DONT_CARE):
        cells = [" ".join((str(meta.counts["train"][name][size]), f"({meta.counts['val'][name][size]})"))
                 for size in reversed(SIZES)]  # fmt: skip
        table.append(["Don't care" if name == DONT_CARE else name, *cells])
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
             for row in table]  # fmt: skip
    title = "Objects by class and size, train (val); small < 0.33 % ≤ medium ≤ 3 % < large of the crop's area"
    if meta.demo:
        title += "\nDEMO DATA: a synthetic stand-in, not ZOD"
    return "\n".join([title, *lines])


def _remark_lines(meta: StoreMeta) -> list[str]:
    """Say what was done with pictures and boxes."""
    lines = [
        f"note: split {split!r} has no object of any class: it cannot be trained on, and isod train and isod sweep "
        "reject this store"
        for split in SPLITS
        if not meta.objects(split)
    ]
    for name in meta.class_names:
        train, val = (sum(meta.counts[split].get(name, {}).values()) for split in ("train", "val"))
        if val and not train and meta.objects("train"):
            lines.append(
                f"note: class {name!r} is in val alone, with {val} objects: its AP of 0 is in every mAP; cut the "
                "splits otherwise, or leave the class out"
            )
    for name, remarks in meta.remarks.items():
        for what, found in remarks.items():
            where = f" in {found.frames} frames" if found.count > found.frames else ""
            if what not in (ODD, ODD_IN_TURNED):
                lines.append(f"note: {name}: {what}: {found.count}{where}, the first in {found.first}")
        if ODD_IN_TURNED in remarks and 2 * remarks[ODD_IN_TURNED].count > remarks[ODD].count:
            lines.append(
                f"note: {name}: {remarks[ODD_IN_TURNED].count} of the {remarks[ODD].count} boxes that were clipped or "
                "left out are in pictures with an EXIF orientation: look at some of them, and choose --exif apply or "
                "--exif ignore"
            )
    return lines


def _lost_lines(meta: StoreMeta) -> list[str]:
    """List the lost frames, those of the same reason together."""
    total = sum(map(len, meta.lost.values()))
    if not total:
        return ["every frame was read"]
    columns, rows = meta.tiles
    tiles = columns * rows
    groups: dict[tuple[str, int, str], list[int]] = {}  # split, frame, reason → rows
    for split in SPLITS:
        for index, reason in meta.lost[split].items():
            groups.setdefault((split, index // tiles, reason), []).append(index)
    what = "frames could not be read" if tiles == 1 else "tiles of frames could not be read"
    lines = [f"{total} {what}; they keep their index and are never drawn:"]
    for (where, frame, reason), lost in list(groups.items())[:LISTED]:
        of = "" if tiles == 1 else f" ({'all ' * (len(lost) == tiles)}{len(lost)} tiles)"
        lines.append(f"  {where} {frame}{of}: {reason}")
    if len(groups) > LISTED:
        lines.append(f"  … and {len(groups) - LISTED} more, all in {META_FILE}")
    return [*lines, "  to include them, make them readable, delete the store and prepare it again"]
