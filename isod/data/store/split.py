"""Crop store: one Lance dataset per split, read in any order by index.

Layout::

    STORE/store.json    what the store holds, written last: without it there is no store
    STORE/train.lance   one row per frame, in the reader's order; row number = index for life
    STORE/val.lance
    STORE/faults.json   annotations known to be wrong; only where the dataset knows them (demo data)
    STORE/sequences.json  of each split, the sequence of each frame; only where the dataset names them

A frame that could not be read keeps its row, with no image and the reason in ``error``. Where frames were cut into T
tiles there are T rows per frame, one after the other with the same frame_id, tiles row by row from the top left: index
= T · (place of the frame) + (number of the tile). STORE is a folder or any URI that both Lance and pyarrow open
(``s3://…``). Reading needs neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.fs

from isod.data.faults import Fault
from isod.data.store.checksums import verify_checksums
from isod.errors import InputError, one_line
from isod.files import parse_json
from isod.objects import Objects
from isod.vocabulary import SPLITS, Split

if TYPE_CHECKING:
    import lance
from isod.data.faults import faults_from_json
from isod.data.store.address import filesystem, read_text
from isod.data.store.crops import Annotations, Crops, decode_all, flat_objects, padded_files
from isod.data.store.meta import FAULTS_FILE, META_FILE, SCHEMA, SEQUENCES_FILE, StoreMeta

# How long Lance asks object storage again that does not answer: 300 s, where its default is seconds.
PATIENCE = {"OBJECT_STORE_CLIENT_MAX_RETRIES": "30", "OBJECT_STORE_CLIENT_RETRY_TIMEOUT": "300"}


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
        images, faults = decode_all(files, self.meta.crop_size, threads) if decode else (padded_files(files), {})
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
            objects = Objects.from_flat(*flat_objects(table, len(self.meta.class_names)))
        return Crops(wanted, images, objects, unreadable).quarantined(unreadable)

    def read_encoded(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The JPEG files of crops, in the order asked for, without their objects."""
        return self._take(indices, ["image"])["image"].to_pylist()

    def annotations(self) -> Annotations:
        """Objects and frame names of every row; reads no image."""
        dataset = self._dataset()
        with self._damage_named():
            table = dataset.to_table(columns=["frame_id", "boxes", "labels", "dont_care"], scan_in_order=True)
            boxes, labels, dont_care, counts = flat_objects(table, len(self.meta.class_names))
        columns, rows = self.meta.tiles
        tile = np.arange(len(self), dtype=np.int64) % (columns * rows)
        tiles = np.stack([tile % columns, tile // columns], axis=1)
        ends = np.cumsum(counts)[:-1]
        return Annotations(table["frame_id"].to_pylist(), tiles, np.split(boxes.copy(), ends),
                           np.split(labels.copy(), ends), np.split(dont_care, ends))  # fmt: skip

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

    def sequences(self) -> list[str] | None:
        """N names, of the sequence that each row is part of; None where the dataset names none.

        Raises InputError if the list is damaged.
        """
        text = read_text(self.uri, SEQUENCES_FILE)
        if text is None:
            return None
        columns, rows = self.meta.tiles
        try:
            named = parse_json(text)[self.name]
            if len(named) * columns * rows != len(self) or not all(isinstance(name, str) for name in named):
                raise ValueError("it does not have a text for each frame")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.uri}/{SEQUENCES_FILE} is damaged ({type(error).__name__}: {one_line(error)}): "
                "prepare the store again"
            ) from None
        return [name for name in named for _ in range(columns * rows)]

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
        if _unanswered(error):
            return InputError(f"split {self.name!r} of the crop store {self.uri} cannot be read: {one_line(error)}")
        return InputError(
            f"split {self.name!r} of the crop store {self.uri} is damaged ({one_line(error)}): prepare the store again"
        )

    def _require_intact(self, address: str) -> None:
        """Refuse a damaged Lance dataset before Lance reads it; a disk that does not answer is not damage."""
        files, path = filesystem(address)
        try:
            verify_checksums(files, path, self.meta.checksums.get(self.name, {}))
        except OSError as error:
            raise InputError(
                f"split {self.name!r} of the crop store {self.uri} cannot be read: {one_line(error)}"
            ) from None
        except ValueError as error:
            raise self._damaged(error) from None

    def _dataset(self) -> lance.LanceDataset:
        if self._lance is None or _opened_in != os.getpid():
            address = f"{self.uri}/{self.name}.lance"
            self._require_intact(address)
            dataset = open_lance(address)
            with self._damage_named():
                count, schema = dataset.count_rows(), dataset.schema
                if schema.names != SCHEMA.names or schema.types != SCHEMA.types:
                    raise ValueError("its columns are not those of a crop store")
                if count != len(self):
                    raise ValueError(f"it has {count} rows and {META_FILE} says {len(self)}")
            self._lance = dataset
        return self._lance


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
        if _unanswered(error):
            raise InputError(f"{uri} cannot be read: {reason}") from None
        raise InputError(f"{uri} does not open as a Lance dataset ({reason}): prepare the store again") from None


def _unanswered(error: BaseException) -> bool:
    """Whether it is Lance's error of a request that object storage did not fulfil."""
    return "Error performing" in str(error)


def import_lance() -> Any:
    """Import Lance, which logs to stderr what is no news for a user ("No existing dataset at …"), and let it wait for
    object storage that is away."""
    for name, value in {"LANCE_LOG": "error", **PATIENCE}.items():
        os.environ.setdefault(name, value)
    import lance

    return lance
