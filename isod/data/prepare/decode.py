"""Decoding a dataset's image files: JPEG as far down as needed, and other formats through PIL."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from isod.data.prepare.settings import Exif
from isod.data.readers.base import FrameError
from isod.errors import one_line
from isod.files import MAX_PIXELS

JPEG_START = b"\xff\xd8\xff"
# What PIL reads besides JPEG; it knows many more formats, some of them risky to parse.
OTHER_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
SEQUENTIAL, RESTART_INTERVAL, SCAN = (0xC0, 0xC1), 0xDD, 0xDA  # JPEG's markers; the first: a frame that is not
# progressive, lossless or arithmetically coded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # PIL's own limit is lower, and would be the one for all that is no JPEG
CONTEXT = 32  # rows: two blocks of the coarsest chroma, whose upsampling looks beyond the rows that are asked for
TURN = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90}  # fmt: skip  # EXIF's orientation → what makes the picture upright
SIDEWAYS = (5, 6, 7, 8)  # of these, the ones that exchange width and height
ORIENTATION = 0x0112  # the tag
TURNED = "pictures turned upright by their EXIF orientation, which the annotated size fits"
KEPT = "pictures with an EXIF orientation not turned, as the annotated size fits the stored pixels"
UNDECIDED = (
    "pictures turned upright by their EXIF orientation, although their size does not tell whether the boxes were drawn "
    "so (if they were drawn on the stored pixels, pass --exif ignore)"
)
DAMAGED = "damaged pictures kept as far as they decode (--lenient)"
LEFT_OVER = "extraneous bytes before marker"  # libjpeg's complaint of data behind the last block that it wanted


class Decoded(NamedTuple):
    """An image file's pixels."""

    pixels: np.ndarray  # [≤ H, W, 3] uint8, RGB: from the top, at least as many rows as were asked for
    size: tuple[int, int]  # (H, W) of the whole image
    is_rgb_jpeg: bool  # whether the file is a JPEG that the store can keep as it is
    remarks: tuple[str, ...] = ()  # what was done with the picture that a person should know


def decode_image(
    data: bytes,
    expected: tuple[int, int] | None,
    rows: int | None = None,
    *,
    exif: Exif = "ignore",
    lenient: bool = False,
) -> Decoded:
    """Decode an image file.

    Args:
        expected: (height, width) it must have; checked before anything of that size is allocated.
        rows: how many are needed, from the top; None for all. Damage further down may go unnoticed, and so may damage
            of the needed rows that a decoder only notices at the end, as it has too much data left; a file that is cut
            short does not.
        exif: whether the orientation tag turns the picture. "auto": it does unless the expected size fits the stored
            pixels alone. A TIFF is always upright.
        lenient: whether a damaged JPEG is kept as far as it decodes.
    Raises:
        FrameError: it does not decode; the message continues a sentence that begins with "its image".
    """
    if not data:
        raise FrameError("is empty")
    try:
        if (header := _jpeg_header(data)) is not None:
            height, width, colors = header
            turn, remarks = _turn(_jpeg_orientation(data, exif), (height, width), expected, exif)
            keeps = colors in ("YCbCr", "RGB") and turn is None
            try:
                pixels = _decode_top(data, height, width, height if rows is None or turn else rows)
            except ValueError:
                if not lenient:
                    raise
                pixels, remarks, keeps = simplejpeg.decode_jpeg(data, strict=False), (*remarks, DAMAGED), False
            return _upright(pixels, (height, width), turn, keeps, remarks)
        with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
            _check_pixels(image.height, image.width)
            tag = 1 if exif == "ignore" else _orientation(image)
            turn, remarks = _turn(tag, (image.height, image.width), expected, exif)
            if image.mode.startswith(("I", "F")):
                raise FrameError(f"has pixels of type {image.mode}: only 8 bits per colour are read")
            pixels = np.asarray(image.convert("RGB"))
            return _upright(pixels, (image.height, image.width), turn, False, remarks)
    except (FrameError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise FrameError(f"does not decode: it is not a readable {', '.join(OTHER_FORMATS)}") from None
    except Exception as error:
        # PIL's decoders check little themselves: a damaged file may fail in them with any error.
        raise FrameError(f"does not decode: {one_line(error)}") from None


def image_size(path: str) -> tuple[int, int]:
    """Return the (height, width) of the upright picture in an image file, of which only the header is read.

    Raises:
        FrameError: it cannot be read.
    """
    try:
        with Image.open(path, formats=OTHER_FORMATS) as image:
            sideways = _orientation(image) in SIDEWAYS
            return (image.width, image.height) if sideways else (image.height, image.width)
    except Exception as error:  # as above
        raise FrameError(f"its image {path} cannot be read: {one_line(error)}") from None


def _turn(
    tag: int, stored: tuple[int, int], expected: tuple[int, int] | None, exif: Exif
) -> tuple[Image.Transpose | None, tuple[str, ...]]:
    """Return how a picture is turned, if it is, and why. Raises FrameError unless it then has the expected size."""
    turn = TURN.get(tag)
    if turn is None or exif == "ignore":
        _check_size(*stored, expected)
        return None, ()
    upright = stored[::-1] if tag in SIDEWAYS else stored
    if exif == "auto" and expected is not None and upright != stored:
        if expected == stored:
            _check_size(*stored, expected)
            return None, (KEPT,)
        _check_size(*upright, expected)
        return turn, (TURNED,)
    _check_size(*upright, expected)
    return turn, (UNDECIDED,) if exif == "auto" else ()


def _upright(
    pixels: np.ndarray, size: tuple[int, int], turn: Image.Transpose | None, keeps: bool, remarks: tuple[str, ...]
) -> Decoded:
    if turn is None:
        return Decoded(pixels, size, keeps, remarks)
    turned = np.asarray(Image.fromarray(pixels).transpose(turn))
    return Decoded(turned, turned.shape[:2], False, remarks)


def _orientation(image: Image.Image) -> int:
    """Return the orientation tag of an open image; 1, upright, of a TIFF, which PIL has turned already."""
    tag = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
    return tag if isinstance(tag, int) else 1


def _jpeg_orientation(data: bytes, exif: Exif) -> int:
    """Return the orientation tag of a JPEG; 1, upright, if there is none or it is damaged."""
    if exif == "ignore" or b"Exif\0\0" not in data[: 2**17]:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return _orientation(image)
    except Exception:  # as above; a damaged tag is no damage of the picture
        return 1


def _jpeg_header(data: bytes) -> tuple[int, int, str] | None:
    """(height, width, colour space) of a JPEG that simplejpeg decodes; None leaves it to PIL."""
    if not data.startswith(JPEG_START):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None  # rare chroma layouts
    return None if colors in ("CMYK", "YCCK") else (height, width, colors)


def _decode_top(data: bytes, height: int, width: int, rows: int) -> np.ndarray:
    """A JPEG's pixels from the top, at least ``rows`` of them. Raises ValueError if it shows damage by then, or is cut
    short.

    Nothing in simplejpeg decodes a part of an image. But a decoder stops where the header says that the image ends, so
    a smaller height there saves the work for all below: 40 % of it for the far region of a ZOD frame.
    """
    shorter = _with_height(data, height, rows + CONTEXT) if rows + CONTEXT < height else None
    if shorter is None:
        return simplejpeg.decode_jpeg(data)
    pixels = np.empty((rows + CONTEXT, width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(shorter, buffer=pixels)
    except ValueError as error:
        if LEFT_OVER not in str(error):  # the error says what was noticed first: so nothing was before the end
            raise
    return pixels


def _with_height(data: bytes, old: int, new: int) -> bytes | None:
    """The same JPEG with the height ``new`` in its header, instead of ``old``.

    None where a decoder would not just stop sooner: several scans, of which each holds the whole height; and restart
    markers, before which data left over is a sign of damage, and no more of the end.
    """
    at, place, components = 2, None, 0  # of the height
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in SEQUENTIAL:
            place, components = at + 5, data[at + 9]
        elif marker == RESTART_INTERVAL:
            return None
        elif marker == SCAN:
            if place is None or data[at + 4] != components or data[place : place + 2] != old.to_bytes(2):
                return None
            return data[:place] + new.to_bytes(2) + data[place + 2 :]
        at += 2 + length
    return None


def _check_size(height: int, width: int, expected: tuple[int, int] | None) -> None:
    _check_pixels(height, width)
    if expected is not None and (height, width) != expected:
        raise FrameError(f"has {width}×{height} pixels, but its annotation says {expected[1]}×{expected[0]}")


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise FrameError(f"claims {width}×{height} pixels, more than the {MAX_PIXELS} that isod reads")
