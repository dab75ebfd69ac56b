"""From a frame to its crop: which bytes are kept, what is cut, and every kind of image that cannot be used."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from isod.data.objects import Annotation
from isod.data.prepare.crop import crop_regions, make_crop, make_rows, read_frame
from isod.data.prepare.region import Region
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import FrameError
from isod.errors import InputError

WHOLE = PrepareSettings()
NOTHING = Annotation.build([], [], [])


def picture(height=40, width=60):
    """Red grows to the right, green downwards: a place can be read off its colour."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.arange(width) * 4
    image[..., 1] = np.arange(height)[:, None] * 4
    return image


def encoded(image=None, kind="JPEG", mode="RGB", **options):
    data = io.BytesIO()
    Image.fromarray(picture() if image is None else image).convert(mode).save(data, kind, **options)
    return data.getvalue()


@pytest.fixture
def crop(tmp_path):
    """make_crop on bytes that are the one crop of their frame."""

    def crop(data, objects=NOTHING, settings=WHOLE, expected=None):
        (tmp_path / "image").write_bytes(data)
        frame = read_frame(str(tmp_path / "image"), expected)
        (region,) = crop_regions(frame, settings)
        return make_crop(frame, objects, region, settings)

    return crop


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_an_rgb_jpeg_keeps_its_bytes(crop, options):
    data = encoded(**options)
    assert crop(data)[:2] == (data, (40, 60))
    assert crop(data, settings=PrepareSettings(roi=Region(0, 0, 60, 40), resize=(60, 40)))[0] == data


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"),
                       ("BMP", "RGB"), ("WEBP", "RGB")]
)  # fmt: skip
def test_every_other_image_becomes_an_rgb_jpeg(crop, kind, mode):
    data, size, _ = crop(encoded(kind=kind, mode=mode))
    assert size == (40, 60)
    assert simplejpeg.decode_jpeg_header(data)[:3] == (40, 60, "YCbCr")
    if mode in ("RGB", "RGBA", "CMYK"):
        assert np.abs(simplejpeg.decode_jpeg(data).astype(int) - picture()).mean() < 8


def test_cut_then_resize_by_hand(crop):
    """The region 20…40 × 10…30 at twice the width and half the height; the box 30…50 × 10…20 loses its right half."""
    settings = PrepareSettings(roi=Region(20, 10, 40, 30), resize=(40, 10), min_visible=0.5)
    objects = Annotation.build([[30, 10, 50, 20], [35, 10, 55, 20]], [1, 2], [False, False])
    data, size, got = crop(encoded(quality=100, subsampling=0), objects, settings)
    assert size == (10, 40)
    assert got.boxes.tolist() == [[20, 0, 40, 5]]
    assert got.labels.tolist() == [1]
    image = simplejpeg.decode_jpeg(data).astype(int)
    assert abs(image[:, 20, 0].mean() - 30 * 4) < 8  # column 20 of the crop is column 30 of the image
    assert abs(image[5, :, 1].mean() - 20 * 4) < 8


def test_a_region_enlarged_to_the_images_size_is_not_the_image(crop):
    data = encoded()
    assert crop(data, settings=PrepareSettings(roi=Region(0, 0, 30, 20), resize=(60, 40)))[0] != data


def test_a_region_that_the_image_covers_in_part(crop):
    """20 of its 40 columns exist: 5 of 10 after the resize. A box beyond the image is gone."""
    settings = PrepareSettings(roi=Region(40, 0, 80, 40), resize=(10, 10))
    objects = Annotation.build([[50, 0, 60, 40], [64, 0, 70, 9]], [1, 2], [False, False])
    _, size, got = crop(encoded(), objects, settings)
    assert size == (10, 5)
    assert got.boxes.tolist() == [[2.5, 0, 5, 10]]


def huge_png(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def huge_jpeg():
    data = bytearray(encoded())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


LOST = {
    "empty": (b"", "is empty"),
    "no image": (b"hello", "does not decode: it is not a readable JPEG, PNG"),
    "half a JPEG": (encoded()[: len(encoded()) - 100], "does not decode"),
    "a JPEG's start": (encoded()[:30], "does not decode"),
    "half a PNG": (encoded(kind="PNG")[:100], "does not decode"),
    "immense JPEG": (huge_jpeg(), "claims 65500×65500 pixels"),
    "large PNG": (huge_png(16_000, 12_000), "does not decode: image file is truncated"),  # PIL's own limit is 13 000²
    "immense PNG": (huge_png(20_000, 20_000), "claims 20000×20000 pixels"),
    "more immense PNG": (huge_png(2**31 - 1, 2**31 - 1), "does not decode: Image size|claims"),
    "a GIF": (encoded(kind="GIF", mode="P"), "does not decode"),
    "16 bits": (encoded(np.zeros((4, 4), np.uint8), kind="PNG", mode="I;16"), "has pixels of type I;16: only 8 bits"),
}


@pytest.mark.parametrize("name", LOST)
def test_an_image_that_cannot_be_used_says_why(crop, name):
    data, message = LOST[name]
    with pytest.raises(FrameError, match=f"its image .*image ({message})"):
        crop(data)


def test_other_reasons(crop, tmp_path):
    with pytest.raises(FrameError, match="has 60×40 pixels, but its annotation says 40×60"):
        crop(encoded(), expected=(60, 40))
    with pytest.raises(FrameError, match="ends before the region of interest"):
        crop(encoded(), settings=PrepareSettings(roi=Region(60, 0, 70, 10)))
    with pytest.raises(FrameError, match="nothing cannot be read: No such file"):
        read_frame(str(tmp_path / "nothing"), None)
    with pytest.raises(FrameError, match="cannot be read: Is a directory"):
        read_frame(str(tmp_path), None)
    with pytest.raises(FrameError, match="lists no image"):
        read_frame("", None)


class Ref:
    frame_id, image_path, size = "f", "/nothing", None

    def objects(self):
        return Annotation.build([[1, 1, 2, 2]], [1], [False])


def test_a_lost_row_keeps_index_and_reason():
    (row,) = make_rows(Ref(), 17, WHOLE)
    assert (row.index, row.frame_id, row.image, row.size, len(row.objects)) == (17, "f", None, (0, 0), 0)
    assert row.error == "its image /nothing cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("field", "value"),
    [("resize", (0, 5)), ("resize", (10**6, 10**6)), ("min_visible", 1.5), ("min_visible", float("nan")),
     ("jpeg_quality", 0), ("chunk_frames", 0)],
)  # fmt: skip
def test_settings_are_checked(field, value):
    with pytest.raises(InputError, match=field):
        PrepareSettings(**{field: value})
