"""The report of a prepare job: objects by class and size, and the frames that were lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        lines = [format_counts(self.meta), "", *self.notes, *_lost_lines(self.meta)]
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


def _lost_lines(meta: StoreMeta) -> list[str]:
    total = sum(map(len, meta.lost.values()))
    if not total:
        return ["every frame was read"]
    shown = [(split, index, reason) for split in SPLITS for index, reason in meta.lost[split].items()][:LISTED]
    what = "frames could not be read" if meta.tiles == (1, 1) else "tiles of frames could not be read"
    lines = [f"{total} {what}; they keep their index and are never drawn:"]
    lines += [f"  {split} {index}: {reason}" for split, index, reason in shown]
    if total > LISTED:
        lines.append(f"  … and {total - LISTED} more, all in {META_FILE}")
    return [*lines, "  to include them, make them readable, delete the store and prepare it again"]
