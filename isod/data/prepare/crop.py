"""From a frame to its rows in the store: read, decode, cut the region of interest or its tiles, resize, encode."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from PIL import Image

from isod.data.faults import Fault
from isod.data.objects import Annotation
from isod.data.prepare.decode import KEPT, TURNED, UNDECIDED, Decoded, decode_image
from isod.data.prepare.region import Region, clip, scale
from isod.data.prepare.settings import Exif, PrepareSettings
from isod.data.readers.base import FrameError, FrameRef, file_error
from isod.data.readers.folders import LabelledFrame
from isod.data.store.writer import Row
from isod.files import MAX_IMAGE, read_file

ODD = "boxes clipped or left out"
ODD_IN_TURNED = "boxes clipped or left out in pictures with an EXIF orientation"


@dataclass(frozen=True)
class Frame:
    """An image file, decoded down to the last row of the region of interest."""

    path: str
    data: bytes  # the file
    image: Decoded


def make_rows(ref: FrameRef, place: int, settings: PrepareSettings) -> list[Row]:
    """Return the rows of a frame, which is decoded once: one row, or one per tile. Tile t is row place · T + t.

    A tile that cannot be used becomes a lost row with the reason. If the frame cannot be used, all its tiles do.

    Args:
        place: of the frame in its split.
    Raises:
        InputError: a file cannot be read for a reason that may pass.
    """
    count = settings.tiles_per_frame
    first = place * count
    try:
        frame, objects = read_annotated(ref, settings)
        regions = crop_regions(frame, settings)
    except FrameError as reason:
        return [_lost_row(ref, first + tile, reason) for tile in range(count)]
    rows = []
    for index, region in enumerate(regions, first):
        try:
            encoded, size, kept = make_crop(frame, objects, region, settings)
            rows.append(Row(index, ref.frame_id, encoded, None, kept, size))
        except FrameError as reason:
            rows.append(_lost_row(ref, index, reason))
    rows[0] = replace(rows[0], remarks=_remarks(ref, frame, objects))
    return rows


def read_annotated(ref: FrameRef, settings: PrepareSettings | None = None) -> tuple[Frame, Annotation]:
    """Return a frame's image and its objects, fitted to the image where its labels do not say its size.

    Raises:
        FrameError, InputError: as ``read_frame``, and as ``FrameRef.objects``.
    """
    settings = settings or PrepareSettings()

    def frame() -> Frame:
        return read_frame(ref.image_path, ref.size, settings.roi, exif=settings.exif, lenient=settings.lenient)

    if isinstance(ref, LabelledFrame):
        read = frame()
        return read, ref.objects_in(read.image.size)
    objects = ref.objects()
    return frame(), objects


def _remarks(ref: FrameRef, frame: Frame, objects: Annotation) -> dict[str, int]:
    """Return what was done with a frame that a person should know, and how many times."""
    told = isinstance(ref, LabelledFrame) and ref.told
    remarks = {**dict.fromkeys(frame.image.remarks, 1), **({} if told else objects.remarks)}
    if odd := sum(objects.remarks.values()):
        remarks[ODD] = odd
        if {KEPT, TURNED, UNDECIDED} & set(frame.image.remarks):
            remarks[ODD_IN_TURNED] = odd
    return remarks


def _lost_row(ref: FrameRef, index: int, reason: FrameError) -> Row:
    return Row(index, ref.frame_id, None, str(reason), Annotation.build([], [], []), (0, 0))


def read_frame(
    image_path: str,
    expected: tuple[int, int] | None,
    roi: Region | None = None,
    *,
    exif: Exif = "ignore",
    lenient: bool = False,
) -> Frame:
    """Read and decode an image.

    Args:
        expected: (height, width) that the annotation says, pixels; None if it does not.
        roi: the part that is needed; None for all.
        exif, lenient: as of ``decode_image``.
    Raises:
        FrameError: the image is missing, damaged, or not of the expected size.
        InputError: it cannot be read for a reason that may pass.
    """
    if not image_path:
        raise FrameError("the dataset lists no image for it")
    try:
        data = read_file(image_path, MAX_IMAGE)
    except OSError as error:
        raise file_error("its image", image_path, error) from None
    except ValueError as error:
        raise FrameError(f"its image {image_path} {error}") from None
    try:
        rows = None if roi is None else roi.y1
        return Frame(image_path, data, decode_image(data, expected, rows, exif=exif, lenient=lenient))
    except FrameError as reason:
        raise FrameError(f"its image {image_path} {reason}") from None


def crop_regions(frame: Frame, settings: PrepareSettings) -> list[Region]:
    """Return what is cut from the frame: the region of interest or the whole image, or its tiles.

    Raises:
        FrameError: the whole image has fewer pixels than tiles.
    """
    height, width = frame.image.size
    region = settings.roi or Region(0, 0, width, height)
    columns, rows = settings.tiles or (1, 1)
    if columns > region.width or rows > region.height:
        raise FrameError(f"its image {frame.path} has {width}×{height} pixels, too few for {columns}×{rows} tiles")
    return region.tiles(columns, rows)


def make_crop(
    frame: Frame, objects: Annotation, region: Region, settings: PrepareSettings
) -> tuple[bytes, tuple[int, int], Annotation]:
    """Cut one region out of a frame and its objects, and resize it.

    An RGB JPEG that needs neither keeps its bytes.

    Args:
        objects: in full-image pixels.
    Returns:
        JPEG, its (height, width), and the objects in its pixels.
    Raises:
        FrameError: the image ends before the region.
    """
    crop = crop_pixels(frame, region, settings)
    objects, size = objects_in_crop(objects, region, frame.image.size, settings)
    whole = region.cut(frame.image.pixels).shape[:2] == frame.image.size
    if whole and size == frame.image.size and frame.image.is_rgb_jpeg:
        return frame.data, size, objects
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=settings.jpeg_quality, colorsubsampling="420")
    return encoded, size, objects


def crop_pixels(frame: Frame, region: Region, settings: PrepareSettings) -> np.ndarray:
    """Cut one region out of a frame and resize it: [H, W, 3] uint8 RGB. Raises FrameError if the image ends before."""
    crop = region.cut(frame.image.pixels)
    if crop.size == 0:
        height, width = frame.image.size
        raise FrameError(f"its image {frame.path} has {width}×{height} pixels and ends before the region of interest")
    _, size = crop_geometry(region, frame.image.size, settings)
    if size == crop.shape[:2]:
        return crop
    # PIL's bilinear filter widens with the reduction, so that no pixel is skipped.
    return np.asarray(Image.fromarray(crop).resize(size[::-1], Image.Resampling.BILINEAR))


def crop_geometry(
    region: Region, image_size: tuple[int, int], settings: PrepareSettings
) -> tuple[Region, tuple[int, int]]:
    """Return the part of a region that lies inside the image, and the (height, width) of the crop that it becomes.

    Args:
        region: begins inside the image; if the image ends before it, so does the crop.
        image_size: (height, width), pixels.
    """
    seen = Region(region.x0, region.y0, min(region.x1, image_size[1]), min(region.y1, image_size[0]))
    if settings.resize is None:
        return seen, (seen.height, seen.width)
    width, height = (
        max(1, round(side * new / old))
        for side, new, old in zip(
            (seen.width, seen.height), settings.resize, (region.width, region.height), strict=True
        )
    )
    return seen, (height, width)


def objects_in_crop(
    objects: Annotation, region: Region, image_size: tuple[int, int], settings: PrepareSettings
) -> tuple[Annotation, tuple[int, int]]:
    """Return the objects that a crop keeps, in its own pixels, and the crop's (height, width).

    Args:
        region, image_size: as of ``crop_geometry``.
    """
    seen, (height, width) = crop_geometry(region, image_size, settings)
    objects = clip(objects, seen, settings.min_visible)
    if settings.resize is None:
        return objects, (height, width)
    return scale(objects, width / seen.width, height / seen.height), (height, width)


def faults_in_crops(
    faults: Sequence[Fault], frames: Sequence[FrameRef], settings: PrepareSettings, lost: Container[int]
) -> list[Fault]:
    """Return known faults of frames as faults of their crops: clipped, moved and resized as the crops' objects are.

    Args:
        faults: of frames, boxes in full-image pixels.
        frames: all of the split.
        lost: the rows that have no image; their faults are left out.
    Returns:
        For each fault one entry per crop that keeps enough of its box, so none if it is outside the region of interest.
    """
    columns, rows = settings.tiles or (1, 1)
    found = []
    for fault in faults:
        size, count = frames[fault.index].size, settings.tiles_per_frame
        readable = [tile for tile in range(count) if fault.index * count + tile not in lost]
        if not readable or size is None:
            continue
        regions = (settings.roi or Region(0, 0, size[1], size[0])).tiles(columns, rows)
        for tile in readable:
            kept, _ = objects_in_crop(Annotation.build([fault.box], [0], [False]), regions[tile], size, settings)
            found += [replace(fault, index=fault.index * count + tile, box=tuple(box)) for box in kept.boxes.tolist()]
    return found
