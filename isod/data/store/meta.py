"""store.json: what a crop store holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from isod.data.store.checksums import NAME, Checksum
from isod.errors import InputError, one_line
from isod.files import MAX_PIXELS, parse_json
from isod.vocabulary import DONT_CARE, SPLITS

FORMAT = "isod crop store"
FORMAT_VERSION = 1
META_FILE = "store.json"
FAULTS_FILE = "faults.json"
SEQUENCES_FILE = "sequences.json"
CHECKSUMS_KEY = "seals"  # in store.json, which had them under that name first
MAX_ROWS = 2**30  # of a split; what store.json may claim before anything of that size is allocated
SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("frame_id", pa.string(), nullable=False),
        pa.field("image", pa.binary()),  # RGB JPEG; null for a lost frame
        pa.field("error", pa.string()),  # why the frame was lost; null for a readable one
        pa.field("boxes", pa.list_(pa.float32()), nullable=False),  # 4·n, xyxy, crop pixels
        pa.field("labels", pa.list_(pa.int64()), nullable=False),  # n
        pa.field("dont_care", pa.list_(pa.bool_()), nullable=False),  # n
        pa.field("size", pa.list_(pa.int32()), nullable=False),  # height, width of this crop, pixels; 0, 0 if lost
    ]
)


@dataclass(frozen=True)
class Remark:
    """How often something was done with annotations or pictures."""

    count: int
    frames: int
    first: str  # frame


def sum_remarks(parts: Iterable[Mapping[str, Remark]]) -> dict[str, Remark]:
    """Add up remarks; the first frame is that of the first part that has the remark."""
    total: dict[str, Remark] = {}
    for part in parts:
        for what, remark in part.items():
            before = total.get(what, Remark(0, 0, remark.first))
            total[what] = Remark(before.count + remark.count, before.frames + remark.frames, before.first)
    return total


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """What store.json says about a crop store."""

    class_names: tuple[str, ...]  # classes 1…C
    crop_size: tuple[int, int]  # (height, width), pixels: the largest crop; smaller ones are padded to it when read
    source: str  # the dataset's format: "zod", "coco", …
    demo: bool  # synthetic stand-in data: every result says so
    settings: dict[str, Any]  # how it was prepared: dataset, region, resize, …
    rows: dict[str, int]  # split → number of rows, lost ones included: frames × tiles per frame
    lost: dict[str, dict[int, str]]  # split → index → why the row has no image
    counts: dict[str, dict[str, dict[str, int]]]  # split → class name or "dont_care" → size → objects (Table 4.2)
    checksums: dict[str, dict[str, Checksum]] = field(default_factory=dict)  # split → file of its Lance dataset
    remarks: dict[str, dict[str, Remark]] = field(default_factory=dict)  # split → what was done → how often
    format_version: int = FORMAT_VERSION

    @property
    def tiles(self) -> tuple[int, int]:
        """(columns, rows) of crops per frame; (1, 1) if frames are not cut into tiles."""
        columns, rows = self.settings.get("tiles") or (1, 1)
        return columns, rows

    @property
    def crops(self) -> str:
        """Number and size of the crops, in words."""
        height, width = self.crop_size
        rows = " + ".join(f"{count} {split}" for split, count in self.rows.items())
        return f"{rows} crops of {width}×{height}"

    @property
    def contents(self) -> str:
        """Summary of the store, in words. Two stores differ in it unless their crops and objects are equal in number
        and their crops in size."""
        lost = sum(map(len, self.lost.values()))
        objects = sum(n for classes in self.counts.values() for sizes in classes.values() for n in sizes.values())
        return f"{self.crops} ({lost} lost), {objects} objects, {len(self.class_names)} classes"

    def objects(self, split: str) -> int:
        """Return the number of objects of a split, don't-care left out."""
        return sum(sum(sizes.values()) for name, sizes in self.counts.get(split, {}).items() if name != DONT_CARE)

    def require_objects(self, uri: str) -> None:
        """Raise InputError if a split has no object: nothing could be learned from it, or measured on it."""
        for split, use in (("train", "learned"), ("val", "measured")):
            if self.counts.get(split) and not self.objects(split):
                raise InputError(
                    f"split {split!r} of the crop store {uri} has no object of any class, so nothing can be {use}: "
                    "prepare it again with labels for this split, or with another --roi"
                )

    def require_classes(self, known: Sequence[str], uri: str, *, whose: str = "the model", advice: str = "") -> None:
        """Raise InputError if a model knows other classes, or in another order.

        Args:
            known: the model's classes.
            whose: what knows them, for the message; advice: what the message ends with.
        """
        if self.class_names != tuple(known):
            raise InputError(
                f"{whose} knows the classes {', '.join(known)}, and {uri} has {', '.join(self.class_names)}{advice}"
            )

    def to_json(self) -> str:
        """Return the text of store.json."""
        fields = {CHECKSUMS_KEY if name == "checksums" else name: value for name, value in asdict(self).items()}
        return json.dumps({"format": FORMAT, **fields}, indent=1)

    @classmethod
    def from_json(cls, text: str, uri: str) -> StoreMeta:
        """Parse store.json.

        Args:
            uri: the store's address, for messages.
        Raises:
            InputError: the text is not that of a store, is damaged, or is of another format version.
        """
        try:
            fields = parse_json(text)
        except ValueError:
            raise InputError(f"{uri}/{META_FILE} is not JSON, so {uri} is not a crop store") from None
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise InputError(f"{uri}/{META_FILE} was not written by `isod prepare`, so {uri} is not a crop store")
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"the crop store {uri} has format version {version!r:.20}, and this isod reads version "
                f"{FORMAT_VERSION}: prepare it again into a new folder, or use the isod that wrote it"
            )
        try:
            fields["class_names"] = tuple(fields["class_names"])
            fields["crop_size"] = tuple(fields["crop_size"])
            fields["lost"] = {s: {int(i): why for i, why in lost.items()} for s, lost in fields["lost"].items()}
            fields["checksums"] = fields.pop(CHECKSUMS_KEY, {})
            fields["remarks"] = {split: {what: Remark(**values) for what, values in remarks.items()}
                                 for split, remarks in fields.get("remarks", {}).items()}  # fmt: skip
            meta = cls(**fields)
            meta._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{uri}/{META_FILE} is damaged ({type(error).__name__}: {one_line(error)}): prepare the store again"
            ) from None
        return meta

    def _check(self) -> None:
        """Raise ValueError, TypeError or AttributeError for what ``isod prepare`` does not write."""

        def holds(rule: bool, field: str) -> None:
            if not rule:
                raise ValueError(f"{field} has a value that `isod prepare` does not write")

        holds(all(isinstance(name, str) for name in self.class_names), "class_names")
        holds(0 < len(set(self.class_names)) == len(self.class_names), "class_names")
        height, width = self.crop_size
        holds(_is_int(height, 1) and _is_int(width, 1) and height * width <= MAX_PIXELS, "crop_size")
        holds(isinstance(self.source, str), "source")
        holds(isinstance(self.demo, bool), "demo")
        columns, rows = self.tiles
        holds(_is_int(columns, 1) and _is_int(rows, 1), "tiles")
        holds(self.rows.keys() == self.lost.keys() <= set(SPLITS), "rows")
        for split, count in self.rows.items():
            holds(_is_int(count, 0) and count <= MAX_ROWS, "rows")
            holds(all(0 <= index < count and isinstance(why, str) for index, why in self.lost[split].items()), "lost")
        counts = [n for classes in self.counts.values() for sizes in classes.values() for n in sizes.values()]
        holds(all(_is_int(n, 0) for n in counts), "counts")
        remarks = [remark for of_split in self.remarks.values() for remark in of_split.values()]
        holds(
            all(_is_int(r.count, 0) and _is_int(r.frames, 0) and isinstance(r.first, str) for r in remarks), "remarks"
        )
        holds(self.checksums.keys() <= self.rows.keys(), CHECKSUMS_KEY)
        for name, sums in (item for files in self.checksums.values() for item in files.items()):
            holds(bool(NAME.fullmatch(name)) and len(sums) == 2 and all(_is_int(n, 0) for n in sums), CHECKSUMS_KEY)


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
