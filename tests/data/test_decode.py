"""Decoding only the top of a JPEG: the same pixels as decoding all of it, and damage that shows by then is told."""

import contextlib
import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isod.data.prepare import decode as images
from isod.data.prepare.decode import CONTEXT, decode_image
from isod.data.readers.base import FrameError

SUBSAMPLINGS = ("444", "422", "420", "440", "411")


def noise(height=200, width=70):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image, **options):
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", **options)
    return data.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """Bytes that were decoded, one entry per call of simplejpeg."""
    seen, decode = [], simplejpeg.decode_jpeg
    monkeypatch.setattr(
        images.simplejpeg, "decode_jpeg", lambda data, **rest: seen.append(data) or decode(data, **rest)
    )
    return seen


@settings(max_examples=60)
@given(height=st.integers(1, 200), width=st.integers(1, 70), subsampling=st.sampled_from(SUBSAMPLINGS), data=st.data())
def test_the_rows_that_are_asked_for_are_those_of_the_whole_image(height, width, subsampling, data):
    rows = data.draw(st.integers(1, height + 40))
    jpeg = simplejpeg.encode_jpeg(noise(height, width), quality=90, colorsubsampling=subsampling)
    top, whole = decode_image(jpeg, (height, width), rows), simplejpeg.decode_jpeg(jpeg)
    assert top.size == (height, width)
    assert min(rows, height) <= len(top.pixels) <= height
    np.testing.assert_array_equal(top.pixels[:rows], whole[:rows])


def test_only_the_top_is_decoded(decoded):
    """The decoder is told of 50 + CONTEXT rows; for fewer than CONTEXT rows below it decodes them all."""
    jpeg = simplejpeg.encode_jpeg(noise(), colorsubsampling="420")
    assert len(decode_image(jpeg, None, 50).pixels) == 50 + CONTEXT
    assert simplejpeg.decode_jpeg_header(decoded[0])[:2] == (50 + CONTEXT, 70)
    assert len(decode_image(jpeg, None, 200 - CONTEXT).pixels) == 200
    assert len(decode_image(jpeg, None).pixels) == 200
    assert decoded[1:] == [jpeg, jpeg]


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}], ids=str
)
def test_a_jpeg_that_cannot_be_cut_short_is_decoded_whole(decoded, options):
    jpeg = saved(noise(), **options)
    assert len(decode_image(jpeg, None, 10).pixels) == 200
    assert decoded == [jpeg]


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"comment": b"\xff\xc0" * 9}, {"exif": b"Exif\0\0" * 50}])
def test_what_other_encoders_write(decoded, options):
    jpeg = saved(noise(), **options)
    assert len(decode_image(jpeg, None, 10).pixels) == 10 + CONTEXT
    np.testing.assert_array_equal(decode_image(jpeg, None, 10).pixels[:10], decode_image(jpeg, None).pixels[:10])


def test_grey_and_other_formats():
    grey = saved(noise()[..., 0])
    top = decode_image(grey, None, 10)
    assert not top.is_rgb_jpeg
    np.testing.assert_array_equal(top.pixels[:10], decode_image(grey, None).pixels[:10])
    png = io.BytesIO()
    Image.fromarray(noise()).save(png, "PNG")
    np.testing.assert_array_equal(decode_image(png.getvalue(), None, 10).pixels, noise())


def test_a_first_scan_without_all_colours_is_decoded_whole(decoded):
    """A header that announces one of three components for the first scan; of the rest of this file nothing fits it."""
    jpeg = simplejpeg.encode_jpeg(noise(), colorsubsampling="444")
    scan = jpeg.index(b"\xff\xda\x00\x0c\x03")
    one = jpeg[:scan] + b"\xff\xda\x00\x08\x01" + jpeg[scan + 5 : scan + 7] + jpeg[scan + 11 :]
    with contextlib.suppress(FrameError):
        decode_image(one, None, 10)
    assert decoded == [one]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8, 0.99])
def test_a_file_that_is_cut_short_anywhere_is_lost(share):
    jpeg = simplejpeg.encode_jpeg(noise(), colorsubsampling="420")
    with pytest.raises(FrameError, match="does not decode"):
        decode_image(jpeg[: int(share * len(jpeg))], None, 50)


def test_a_marker_in_the_rows_that_are_needed_is_damage():
    """0xFFD9, the end of the image, at a tenth of it: rows 20 and below have no data."""
    jpeg = bytearray(simplejpeg.encode_jpeg(noise(), colorsubsampling="420"))
    jpeg[len(jpeg) // 10 : len(jpeg) // 10 + 2] = b"\xff\xd9"
    with pytest.raises(FrameError, match="does not decode: Corrupt JPEG data: premature end of data segment"):
        decode_image(bytes(jpeg), None, 50)
