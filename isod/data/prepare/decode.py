"""Decoding a dataset's image files: JPEG as far down as needed, and other formats through PIL."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

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
LEFT_OVER = "extraneous bytes before marker"  # libjpeg's complaint of data behind the last block that it wanted


class Decoded(NamedTuple):
    """An image file's pixels."""

    pixels: np.ndarray  # [≤ H, W, 3] uint8, RGB: from the top, at least as many rows as were asked for
    size: tuple[int, int]  # (H, W) of the whole image
    is_rgb_jpeg: bool  # whether the file is a JPEG that the store can keep as it is


def decode_image(data: bytes, expected: tuple[int, int] | None, rows: int | None = None) -> Decoded:
    """Decode an image file. Its orientation tag is ignored, as boxes are drawn on the stored pixels.

    Args:
        expected: (height, width) it must have; checked before anything of that size is allocated.
        rows: how many are needed, from the top; None for all. Damage further down may go unnoticed, and so may damage
            of the needed rows that a decoder only notices at the end, as it has too much data left; a file that is cut
            short does not.
    Raises:
        FrameError: it does not decode; the message continues a sentence that begins with "its image".
    """
    if not data:
        raise FrameError("is empty")
    try:
        if (header := _jpeg_header(data)) is not None:
            height, width, colors = header
            _check_size(height, width, expected)
            pixels = _decode_top(data, height, width, height if rows is None else rows)
            return Decoded(pixels, (height, width), colors in ("YCbCr", "RGB"))
        with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
            _check_size(image.height, image.width, expected)
            if image.mode.startswith(("I", "F")):
                raise FrameError(f"has pixels of type {image.mode}: only 8 bits per colour are read")
            return Decoded(np.asarray(image.convert("RGB")), (image.height, image.width), False)
    except (FrameError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise FrameError(f"does not decode: it is not a readable {', '.join(OTHER_FORMATS)}") from None
    except Exception as error:
        # PIL's decoders check little themselves: a damaged file may fail in them with any error.
        raise FrameError(f"does not decode: {one_line(error)}") from None


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
    if height * width > MAX_PIXELS:
        raise FrameError(f"claims {width}×{height} pixels, more than the {MAX_PIXELS} that isod reads")
    if expected is not None and (height, width) != expected:
        raise FrameError(f"has {width}×{height} pixels, but its annotation says {expected[1]}×{expected[0]}")
