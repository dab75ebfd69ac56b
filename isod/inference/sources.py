"""Where frames come from: image files, folders of them, video files, and crop stores."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from isod.data.objects import Annotation
from isod.data.prepare.crop import Frame, read_annotated, read_frame
from isod.data.prepare.decode import Decoded, decode_image
from isod.data.prepare.settings import Exif, PrepareSettings
from isod.data.readers.base import FrameError
from isod.data.readers.coco import CocoFrameRef
from isod.data.store.crops import decode_all
from isod.data.store.meta import META_FILE
from isod.data.store.split import CropSplit, CropStore
from isod.errors import InputError, one_line
from isod.files import MAX_PIXELS
from isod.vocabulary import Split

log = logging.getLogger(__name__)

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
READ_AT_ONCE = 16  # crops of a store


@dataclass(frozen=True)
class NamedFrame:
    """One frame to predict on."""

    name: str  # what its results are called: a relative path with slashes, without suffix; unique
    file_name: str  # what it is called in its source
    image_id: int | str  # 1, 2, … in the order of the sources; of a COCO json its own
    frame: Frame
    truth: Annotation | None = None  # its objects, pixels of the frame; None where nobody knows


@dataclass
class Broken:
    """Frames that could not be read, with the reason of each."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: object) -> None:
        """Log a frame that cannot be read, and remember it."""
        self.reasons[name] = str(reason)
        log.warning("%s is left out: %s", name, reason)


class Source(Protocol):
    """A source of frames."""

    cropped: bool  # whether its frames are crops of a store, already cut and resized

    def __len__(self) -> int:
        """Return the number of frames, as far as it is known."""
        ...

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        """Yield the frames that can be read, and add the others to ``broken``.

        Args:
            exif: whether the orientation tag of an image file turns it, as of ``decode_image``.
        """
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Image files, each with the name that its results get, and its own name seen from the folder it was found in."""

    files: Sequence[tuple[str, str, Path]]
    cropped = False

    def __len__(self) -> int:
        return len(self.files)

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        for number, (name, file_name, path) in enumerate(self.files, 1):
            try:
                yield NamedFrame(name, file_name, number, read_frame(str(path), None, exif=exif))
            except FrameError as reason:
                broken.add(str(path), reason)


@dataclass(frozen=True)
class AnnotatedFiles:
    """The image files of a COCO json, with their objects."""

    refs: Sequence[CocoFrameRef]
    cropped = False

    def __len__(self) -> int:
        return len(self.refs)

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        names = _names_of(ref.frame_id for ref in self.refs)
        for ref in self.refs:
            try:
                frame, objects = read_annotated(ref, PrepareSettings(exif=exif))
            except FrameError as reason:
                broken.add(ref.frame_id, reason)
                continue
            yield NamedFrame(names[ref.frame_id], ref.frame_id, ref.image_id, frame, objects)


@dataclass(frozen=True)
class ImageBytes:
    """Image files that are in memory."""

    files: Sequence[bytes]
    cropped = False

    def __len__(self) -> int:
        return len(self.files)

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        for number, data in enumerate(self.files, 1):
            name = f"image {number}"
            try:
                yield NamedFrame(name, name, number, Frame(name, data, decode_image(data, None, exif=exif)))
            except FrameError as reason:
                broken.add(name, f"it {reason}")


@dataclass(frozen=True)
class Video:
    """A video file, frame by frame, turned as its display matrix says. Needs the extra ``video``."""

    path: Path
    name: str  # what the names of its frames begin with
    cropped = False

    def __len__(self) -> int:
        import av

        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                seconds = 0.0 if container.duration is None else container.duration / 1e6
                return stream.frames or round(seconds * float(stream.average_rate or 0))
        except (av.FFmpegError, IndexError) as error:
            raise InputError(f"{self.path} is not a video that can be read ({one_line(error)})") from None

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        import av

        number = 0
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for number, picture in enumerate(container.decode(video=0), 1):
                    if picture.width * picture.height > MAX_PIXELS:
                        raise InputError(f"{self.path} has more than {MAX_PIXELS} pixels a frame")
                    turns = picture.rotation // 90 if exif != "ignore" and picture.rotation % 90 == 0 else 0
                    pixels = np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), turns))
                    frame = Frame(str(self.path), b"", Decoded(pixels, pixels.shape[:2], False))
                    yield NamedFrame(f"{self.name}/{number:06d}", self.path.name, number, frame)
        except av.FFmpegError as error:  # what was read stays
            broken.add(f"{self.path} after frame {number}", one_line(error))


@dataclass(frozen=True)
class StoreCrops:
    """The crops of one split of a store, with their objects: boxes are in pixels of the crop."""

    split: CropSplit
    rows: Sequence[int] | None = None  # readable ones; None for all of the split
    cropped = True

    def __len__(self) -> int:
        return len(self.split if self.rows is None else self.rows)

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        rows, sizes, readable = self.split.annotations(), self.split.sizes(), self.split.readable.tolist()
        if self.rows is None:
            for index, reason in self.split.lost.items():
                broken.add(f"row {index} ({rows.frame_ids[index]})", reason)
        else:
            readable = self.rows
        tiled, names = self.split.meta.tiles != (1, 1), _names_of(rows.frame_ids)
        for start in range(0, len(readable), READ_AT_ONCE):
            indices = list(readable[start : start + READ_AT_ONCE])
            images, faults = decode_all(self.split.read_encoded(indices), self.split.meta.crop_size)
            for place, index in enumerate(indices):
                frame_id, (column, row) = rows.frame_ids[index], rows.tiles[index]
                if place in faults:
                    broken.add(f"row {index} ({frame_id})", faults[place])
                    continue
                height, width = sizes[index].tolist()
                name = names[frame_id] + (f"-tile-{column}-{row}" if tiled else "")
                frame = Frame(frame_id, b"", Decoded(images[place, :height, :width], (height, width), False))
                truth = Annotation(rows.boxes[index], rows.labels[index], rows.dont_care[index])
                yield NamedFrame(name, frame_id, index + 1, frame, truth)


@dataclass(frozen=True)
class Several:
    """Sources one after the other. Frames that cannot be read count in ``image_id``, as they do in one source."""

    sources: Sequence[Source]
    cropped = False

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def frames(self, broken: Broken, exif: Exif = "auto") -> Iterator[NamedFrame]:
        before = 0
        for source in self.sources:
            last = 0
            for item in source.frames(broken, exif):
                last = int(item.image_id)
                yield replace(item, image_id=before + last)
            before += max(last, len(source.files) if isinstance(source, ImageFiles) else 0)


def open_sources(words: Sequence[str], *, split: Split | None = None) -> Source:
    """Return what somebody names on the command line as one source.

    Args:
        words: image files, folders (searched with all their folders), video files; or one crop store.
        split: of a store; "val" by default.
    Raises:
        InputError: one does not exist, is none of these, or holds no image; a store beside something else; a split of
            something else.
    """
    stores = [word for word in words if is_store(word)]
    if stores:
        if len(words) > 1:
            raise InputError(f"{stores[0]} is a crop store: predict on it alone, without other sources")
        return StoreCrops(CropStore.open(stores[0]).split(split or "val"))
    if split is not None:
        raise InputError(f"{words[0]} is no crop store, whose parts --split names: leave it out")
    parts: list[tuple[str, Path]] = []
    videos: list[Path] = []
    for word in words:
        path = Path(word)
        if not path.exists():
            raise InputError(f"the source {word} does not exist")
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
            if not found:
                raise InputError(f"the folder {word} holds no image: isod reads {', '.join(IMAGES)}")
            parts += [(str(file.relative_to(path)), file) for file in found]
        elif path.suffix.lower() in VIDEOS:
            videos.append(path)
        else:
            parts.append((path.name, path))
    # A video's name is that of a folder, which no image may have either.
    folders = {str(folder) for name, _ in parts for folder in PurePosixPath(_stem(name)).parents}
    names = _unique([*(_stem(name) for name, _ in parts), *folders, *(_stem(path.name) for path in videos)])
    sources: list[Source] = []
    if parts:
        sources.append(ImageFiles([(name, *part) for name, part in zip(names, parts, strict=False)]))
    sources += [Video(path, name) for path, name in zip(videos, names[len(names) - len(videos) :], strict=True)]
    return sources[0] if len(sources) == 1 else Several(sources)


def is_store(word: str) -> bool:
    """Whether it names a crop store: an address, or a folder with a store.json."""
    return "://" in word or os.path.exists(os.path.join(word, META_FILE))


def _stem(name: str) -> str:
    """Return a file name without its suffix, with slashes, without a way out of the folder it is written to."""
    path = PurePosixPath(name.replace(os.sep, "/"))
    path = path.with_suffix("") if path.suffix.lower() in (*IMAGES, *VIDEOS) else path
    return "/".join(part for part in path.parts if part not in ("/", "..", "."))


def _names_of(frame_ids: Iterable[str]) -> dict[str, str]:
    """Return the name of each frame: its file's without suffix; that of a second such frame gets -2."""
    distinct = list(dict.fromkeys(frame_ids))
    return dict(zip(distinct, _unique([_stem(frame_id) for frame_id in distinct]), strict=True))


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names; a repeated one gets -2, -3, …"""
    taken, seen, found = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        other, number = name, seen[name]
        while number > 1 and other in taken:
            other, number = f"{name}-{number}", number + 1
        taken.add(other)
        found.append(other)
    return found
