"""Crop store: one Lance dataset per split, read in any order by index.

Layout::

    STORE/store.json    what the store holds, written last: without it there is no store
    STORE/train.lance   one row per frame, in the reader's order; row number = index for life
    STORE/val.lance
    STORE/faults.json   annotations known to be wrong; only where the dataset knows them (demo data)

A frame that could not be read keeps its row, with no image and the reason in ``error``. Where frames were cut into T
tiles there are T rows per frame, one after the other with the same frame_id, tiles row by row from the top left: index
= T · (place of the frame) + (number of the tile). STORE is a folder or any URI that both Lance and pyarrow open
(``s3://…``). Reading needs neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import simplejpeg

from isod.data.dataset import SPLITS, Fault, Objects, Split
from isod.data.files import MAX_JSON, MAX_PIXELS, parse_json
from isod.data.seals import NAME, Seal, check_seals
from isod.errors import InputError, one_line

if TYPE_CHECKING:
    import lance

FORMAT = "isod crop store"
FORMAT_VERSION = 1
META_FILE = "store.json"
FAULTS_FILE = "faults.json"
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


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """What store.json says about the whole store."""

    class_names: tuple[str, ...]  # classes 1…C
    crop_size: tuple[int, int]  # (height, width), pixels: the largest crop; smaller ones are padded to it when read
    source: str  # "zod" or "coco"
    demo: bool  # synthetic stand-in data: every result says so
    settings: dict[str, Any]  # how it was prepared: dataset, region, resize, …
    rows: dict[str, int]  # split → number of rows, lost ones included: frames × tiles per frame
    lost: dict[str, dict[int, str]]  # split → index → reason
    counts: dict[str, dict[str, dict[str, int]]]  # split → class name or "dont_care" → size → objects (Table 4.2)
    seals: dict[str, dict[str, Seal]] = field(default_factory=dict)  # split → file of its Lance dataset → seal
    format_version: int = FORMAT_VERSION

    @property
    def tiles(self) -> tuple[int, int]:
        """(columns, rows) of crops per frame; (1, 1) where frames are not cut into tiles."""
        columns, rows = self.settings.get("tiles") or (1, 1)
        return columns, rows

    @property
    def crops(self) -> str:
        """How many there are, and how large, in words."""
        height, width = self.crop_size
        rows = " + ".join(f"{count} {split}" for split, count in self.rows.items())
        return f"{rows} crops of {width}×{height}"

    @property
    def contents(self) -> str:
        """What it holds, in words: of a store made anew in the place of another one they differ, unless its crops and
        objects are as many and as large."""
        lost = sum(map(len, self.lost.values()))
        objects = sum(n for classes in self.counts.values() for sizes in classes.values() for n in sizes.values())
        return f"{self.crops} ({lost} lost), {objects} objects, {len(self.class_names)} classes"

    def to_json(self) -> str:
        """The text of store.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, uri: str) -> StoreMeta:
        """Parse store.json. Raises InputError if it is none, or one of another format version."""
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
            meta = cls(**fields)
            meta._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{uri}/{META_FILE} is damaged ({type(error).__name__}: {one_line(error)}): prepare the store again"
            ) from None
        return meta

    def _check(self) -> None:
        """Raises ValueError, TypeError or AttributeError for what ``isod prepare`` does not write."""

        def holds(rule: bool, field: str) -> None:
            if not rule:
                raise ValueError(f"{field} is not what it should be")

        holds(all(isinstance(name, str) for name in self.class_names), "class_names")
        holds(0 < len(set(self.class_names)) == len(self.class_names), "class_names")
        height, width = self.crop_size
        holds(_whole(height, 1) and _whole(width, 1) and height * width <= MAX_PIXELS, "crop_size")
        holds(isinstance(self.source, str), "source")
        holds(isinstance(self.demo, bool), "demo")
        columns, rows = self.tiles
        holds(_whole(columns, 1) and _whole(rows, 1), "tiles")
        holds(self.rows.keys() == self.lost.keys() <= set(SPLITS), "rows")
        for split, count in self.rows.items():
            holds(_whole(count, 0) and count <= MAX_ROWS, "rows")
            holds(all(0 <= index < count and isinstance(why, str) for index, why in self.lost[split].items()), "lost")
        counts = [n for classes in self.counts.values() for sizes in classes.values() for n in sizes.values()]
        holds(all(_whole(n, 0) for n in counts), "counts")
        holds(self.seals.keys() <= self.rows.keys(), "seals")
        for name, seal in (item for sealed in self.seals.values() for item in sealed.items()):
            holds(bool(NAME.fullmatch(name)) and len(seal) == 2 and all(_whole(n, 0) for n in seal), "seals")


@dataclass(frozen=True)
class Crops:
    """B crops with their objects. Crops smaller than the store's crop_size lie top left on black."""

    indices: np.ndarray  # [B] int64
    images: np.ndarray  # [B, H, W, 3] uint8, RGB; if not decoded yet, [B, L] uint8: JPEG files, zeros behind their ends
    boxes: list[np.ndarray]  # B × [n, 4] float32, xyxy, crop pixels
    labels: list[np.ndarray]  # B × [n] int64, 1…C; 0 for don't-care
    dont_care: list[np.ndarray]  # B × [n] bool
    unreadable: np.ndarray  # [B] bool; crops that did not decode and were let through, black and without objects

    def quarantined(self, mask: np.ndarray) -> Crops:
        """The crops, those that a mask [B] names marked as unreadable and without objects; the images as they are."""
        boxes, labels, dont_care = (
            [of_one[:0] if bad else of_one for of_one, bad in zip(part, mask, strict=True)]
            for part in (self.boxes, self.labels, self.dont_care)
        )
        return replace(self, boxes=boxes, labels=labels, dont_care=dont_care, unreadable=mask)

    def without(self, mask: np.ndarray) -> Crops:
        """The crops that a mask [B] does not name."""
        keep = np.flatnonzero(~mask)
        boxes, labels, dont_care = ([part[i] for i in keep] for part in (self.boxes, self.labels, self.dont_care))
        return Crops(self.indices[keep], self.images[keep], boxes, labels, dont_care, self.unreadable[keep])


@dataclass(frozen=True)
class Annotations:
    """The objects of all N rows of a split, lost ones included (no objects), without images."""

    frame_ids: list[str]  # N; the tiles of a frame share it
    tiles: np.ndarray  # [N, 2] int64, (column, row) of the crop within its frame's tiles; 0, 0 without tiles
    boxes: list[np.ndarray]  # N × [n, 4] float32, xyxy, crop pixels
    labels: list[np.ndarray]  # N × [n] int64
    dont_care: list[np.ndarray]  # N × [n] bool


class CropStore:
    """A prepared dataset. Picklable: it carries its address and store.json, never an open file."""

    def __init__(self, uri: str, meta: StoreMeta) -> None:
        self.uri = uri
        self.meta = meta

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> CropStore:
        """Read store.json, nothing else. Raises InputError if there is no store of this version."""
        uri = os.fspath(uri).rstrip("/") or "/"
        text = read_text(uri, META_FILE)
        if text is None:
            raise InputError(f"{uri} is not a crop store (no {META_FILE} in it): make one with `isod prepare`")
        return cls(uri, StoreMeta.from_json(text, uri))

    def split(self, name: str) -> CropSplit:
        """The crops of "train" or "val"."""
        if name not in SPLITS or name not in self.meta.rows:
            raise InputError(f"the crop store {self.uri} has no split {name!r}; it has {sorted(self.meta.rows)}")
        return CropSplit(self.uri, name, self.meta)

    def __repr__(self) -> str:
        return f"CropStore({self.uri!r})"


class CropSplit:
    """One split, read by index 0…N−1. Lance is opened on the first read, in the process that reads."""

    def __init__(self, uri: str, name: Split, meta: StoreMeta) -> None:
        self.uri = uri
        self.name = name
        self.meta = meta
        self._lance: lance.LanceDataset | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "name": self.name, "meta": self.meta, "_lance": None}

    def __len__(self) -> int:
        return self.meta.rows[self.name]

    def __repr__(self) -> str:
        return f"CropSplit({self.uri!r}, {self.name!r}, {len(self)} rows)"

    @property
    def lost(self) -> dict[int, str]:
        """Index → why that frame could not be read."""
        return self.meta.lost[self.name]

    @cached_property
    def readable(self) -> np.ndarray:
        """[M] int64, ascending: the indices that have an image."""
        mask = np.ones(len(self), dtype=bool)
        mask[list(self.lost)] = False
        return np.flatnonzero(mask).astype(np.int64)

    def read(
        self,
        indices: Sequence[int] | np.ndarray,
        *,
        threads: int = 1,
        quarantine: bool = False,
        decode: bool = True,
    ) -> Crops:
        """Fetch and decode crops, in the order asked for; an index may appear more than once.

        Args:
            indices: [B] integers in 0…N−1.
            threads: how many decode at once (decoding releases the interpreter lock).
            quarantine: let an image that does not decode through, black, without objects, and marked, so that a disk
                that goes bad in the middle of a run costs one example and not the run.
            decode: if not, the crops hold their JPEG files, whoever decodes them looks for bad ones, and ``threads``
                and ``quarantine`` mean nothing.
        Raises:
            InputError: an index out of range, a lost frame, or, without quarantine, an image that does not decode.
        """
        table = self._take(indices, ["frame_id", "image", "boxes", "labels", "dont_care"])
        wanted = np.asarray(indices, dtype=np.int64)
        files = [image.as_buffer() or b"" for image in table["image"]]
        images, faults = decode_all(files, self.meta.crop_size, threads) if decode else (_padded(files), {})
        if faults and not quarantine:
            position, reason = next(iter(faults.items()))
            frame_id = table["frame_id"][position].as_py()
            raise InputError(
                f"split {self.name!r} of the crop store {self.uri}: the image of index {wanted[position]} "
                f"(frame {frame_id}) does not decode ({reason}): the store is damaged, prepare it again"
            )
        unreadable = np.zeros(len(wanted), dtype=bool)
        unreadable[list(faults)] = True
        with self._damage_named():
            objects = _objects(table, len(self.meta.class_names))
        crops = Crops(wanted, images, [o.boxes for o in objects], [o.labels for o in objects],
                      [o.dont_care for o in objects], unreadable)  # fmt: skip
        return crops.quarantined(unreadable)

    def read_encoded(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The JPEG files of crops, in the order asked for, without their objects."""
        return self._take(indices, ["image"])["image"].to_pylist()

    def annotations(self) -> Annotations:
        """Objects and frame names of every row; reads no image."""
        dataset = self._dataset()
        with self._damage_named():
            table = dataset.to_table(columns=["frame_id", "boxes", "labels", "dont_care"], scan_in_order=True)
            objects = _objects(table, len(self.meta.class_names))
        columns, rows = self.meta.tiles
        tile = np.arange(len(self), dtype=np.int64) % (columns * rows)
        tiles = np.stack([tile % columns, tile // columns], axis=1)
        return Annotations(table["frame_id"].to_pylist(), tiles, [o.boxes for o in objects],
                           [o.labels for o in objects], [o.dont_care for o in objects])  # fmt: skip

    def sizes(self) -> np.ndarray:
        """[N, 2] int64: height and width of every crop as it was cut, pixels, without padding; 0, 0 if lost."""
        with self._damage_named():
            column = self._dataset().to_table(columns=["size"], scan_in_order=True)["size"]
            return np.array(column.to_pylist(), dtype=np.int64).reshape(len(self), 2)

    def known_faults(self) -> list[Fault] | None:
        """Annotations known to be wrong, boxes in crop pixels; None where the store does not know.

        Raises InputError if the list is damaged.
        """
        text = read_text(self.uri, FAULTS_FILE)
        if text is None:
            return None
        try:
            faults = faults_from_json(text, self.name)
            if any(not 0 <= fault.index < len(self) for fault in faults):
                raise ValueError("an index is outside of the split")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{self.uri}/{FAULTS_FILE} is damaged ({type(error).__name__}: {one_line(error)}): "
                "prepare the store again"
            ) from None
        return faults

    def wrong_examples(self) -> np.ndarray | None:
        """[N] bool: whether a row has an annotation known to be wrong; None where the store does not know."""
        faults = self.known_faults()
        if faults is None:
            return None
        wrong = np.zeros(len(self), dtype=bool)
        wrong[[fault.index for fault in faults]] = True
        return wrong

    def _take(self, indices: Sequence[int] | np.ndarray, columns: list[str]) -> pa.Table:
        """Rows of readable frames, in the order asked for."""
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise ValueError(f"indices must be a flat list of integers, got {wanted.dtype} of shape {wanted.shape}")
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if outside.size:
            raise InputError(
                f"index {outside[0]} is outside split {self.name!r} of the crop store {self.uri}, "
                f"which has the indices 0…{len(self) - 1}"
            )
        if self.lost:
            for index in wanted.tolist():
                if index in self.lost:
                    raise InputError(
                        f"index {index} of split {self.name!r} of the crop store {self.uri} is a lost frame "
                        f"({self.lost[index]}): draw from CropSplit.readable"
                    )
        if not wanted.size:
            return SCHEMA.empty_table().select(columns)
        dataset = self._dataset()
        with self._damage_named():
            return dataset.take(wanted.tolist(), columns=columns)

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """Whatever Lance, Arrow or our own checks say of damaged files becomes one sentence."""
        try:
            yield
        except BaseException as error:
            # Lance's Rust code may panic, which reaches Python as no Exception.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException) -> InputError:
        return InputError(
            f"split {self.name!r} of the crop store {self.uri} is damaged ({one_line(error)}): prepare the store again"
        )

    def _require_seals(self, address: str) -> None:
        """Refuse a damaged Lance dataset before Lance reads it; a disk that does not answer is not damage."""
        files, path = filesystem(address)
        try:
            check_seals(files, path, self.meta.seals.get(self.name, {}))
        except OSError as error:
            raise InputError(
                f"split {self.name!r} of the crop store {self.uri} cannot be read: {one_line(error)}"
            ) from None
        except ValueError as error:
            raise self._damaged(error) from None

    def _dataset(self) -> lance.LanceDataset:
        if self._lance is None or _opened_in != os.getpid():
            address = f"{self.uri}/{self.name}.lance"
            self._require_seals(address)
            dataset = open_lance(address)
            with self._damage_named():
                count, schema = dataset.count_rows(), dataset.schema
                if schema.names != SCHEMA.names or schema.types != SCHEMA.types:
                    raise ValueError("its columns are not those of a crop store")
                if count != len(self):
                    raise ValueError(f"it has {count} rows and {META_FILE} says {len(self)}")
            self._lance = dataset
        return self._lance


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def faults_to_json(faults: Mapping[Split, Sequence[Fault]]) -> str:
    """The text of faults.json."""
    entries = [
        {"split": split, "index": fault.index, "kind": fault.kind, "box": fault.box, "class": fault.class_name,
         "annotated_as": fault.annotated_as}
        for split in faults for fault in faults[split]
    ]  # fmt: skip
    return json.dumps({"what": "annotations known to be wrong; boxes xyxy in crop pixels", "faults": entries}, indent=1)


def faults_from_json(text: str, split: Split) -> list[Fault]:
    """A split's part of faults.json. Raises KeyError, TypeError or ValueError if the text is none."""
    entries = [entry for entry in parse_json(text)["faults"] if entry["split"] == split]
    return [Fault.from_entry(int(entry["index"]), entry) for entry in entries]


_opened_in: int | None = None  # the process that opened Lance; a fork of it must not


def open_lance(uri: str) -> lance.LanceDataset:
    """Open a Lance dataset in this process.

    Raises:
        InputError: there is none.
        RuntimeError: this process was forked after Lance had been opened, whose threads did not come along: it would
            wait for them for ever.
    """
    global _opened_in
    if _opened_in not in (None, os.getpid()):
        raise RuntimeError(
            "Lance was opened before this process was forked, and would hang here: "
            "start worker processes with the spawn or forkserver method"
        )
    lance = import_lance()
    _opened_in = os.getpid()
    try:
        return lance.dataset(uri)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = one_line(error)
        raise InputError(f"{uri} does not open as a Lance dataset ({reason}): prepare the store again") from None


def import_lance() -> Any:
    """Import Lance, which logs to stderr what is no news for a user ("No existing dataset at …")."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lance

    return lance


def decode_into(place: np.ndarray, data: bytes | memoryview | pa.Buffer) -> None:
    """Decode an RGB JPEG into the top left of ``place`` [H, W, 3] uint8; the rest of it becomes black.

    Raises:
        ValueError: it cannot; then anything may be in ``place``.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if (height, width) == place.shape[:2]:
        simplejpeg.decode_jpeg(data, buffer=place)
    elif height <= place.shape[0] and width <= place.shape[1]:
        place[:height, :width] = simplejpeg.decode_jpeg(data)
        place[height:], place[:height, width:] = 0, 0
    else:
        raise ValueError(f"it has {width}×{height} pixels, more than the store's {place.shape[1]}×{place.shape[0]}")


def decode_all(
    files: Sequence[bytes | memoryview | pa.Buffer], size: tuple[int, int], threads: int = 1
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode RGB JPEGs as ``decode_into`` does.

    Args:
        size: (H, W), pixels.
        threads: how many decode at once.
    Returns:
        Images [B, H, W, 3] uint8; and position → reason of those that do not decode, in order, which are black.
    """
    images = np.empty((len(files), *size, 3), dtype=np.uint8)

    def fault(place: np.ndarray, file: bytes | memoryview | pa.Buffer) -> str | None:
        try:
            decode_into(place, file)
        except ValueError as error:
            place[...] = 0
            return str(error)
        return None

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            reasons = list(pool.map(fault, images, files))
    else:
        reasons = list(map(fault, images, files))
    return images, {position: reason for position, reason in enumerate(reasons) if reason is not None}


def _padded(files: Sequence[bytes | pa.Buffer]) -> np.ndarray:
    """[B, L] uint8: files one below the other, zeros behind their ends."""
    padded = np.zeros((len(files), max(map(len, files), default=0)), dtype=np.uint8)
    for place, file in zip(padded, files, strict=True):
        place[: len(file)] = np.frombuffer(file, dtype=np.uint8)
    return padded


def _objects(table: pa.Table, classes: int) -> list[Objects]:
    """The objects of each row. Copies: arrays that Arrow owns are read-only. Raises ValueError if they are damaged."""
    boxes, labels, dont_care = (table[name].combine_chunks() for name in ("boxes", "labels", "dont_care"))
    numbers, marks, fours = (
        column.value_lengths().to_numpy(zero_copy_only=False) for column in (labels, dont_care, boxes)
    )
    values = labels.flatten().to_numpy()
    together = (marks == numbers).all() and (fours == 4 * numbers).all()
    if not together or values.min(initial=0) < 0 or values.max(initial=0) > classes:
        raise ValueError("a row's boxes, labels and don't-care marks do not belong together")
    return [
        Objects.build(b.values.to_numpy(), n.values.to_numpy(), d.values.to_numpy(zero_copy_only=False))
        for b, n, d in zip(boxes, labels, dont_care, strict=True)
    ]


def filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a store's address, and the path on it. Raises InputError for an address it cannot open."""
    try:
        if "://" in uri:
            return pyarrow.fs.FileSystem.from_uri(uri)
        return pyarrow.fs.LocalFileSystem(), os.path.abspath(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{uri} is not an address that a crop store can live at: {error}") from None


def read_text(uri: str, name: str) -> str | None:
    """The text of a file of the store; None if there is no such file."""
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(f"{path}/{name}") as stream:
            data = stream.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise InputError(f"{uri}/{name} has more than the {MAX_JSON} bytes that are read")
        return data.decode()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}/{name} cannot be read: {error}") from None


def write_text(uri: str, name: str, text: str) -> None:
    """Write a file of the store whole: under another name first, then moved into place."""
    files, path = filesystem(uri)
    target = f"{path}/{name}"
    files.create_dir(os.path.dirname(target), recursive=True)
    with files.open_output_stream(f"{target}.part") as stream:
        stream.write(text.encode())
    files.move(f"{target}.part", target)
