"""Batches of JPEG files decoded where they are trained on; PIL says what is in them."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from isod.errors import InputError
from isod.training.decode import check_decoder, decode_batch

CPU = torch.device("cpu")
SIZE = (48, 64)  # height, width


def jpeg(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A smooth random image; JPEG damage shows in it."""
    coarse = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90, colorsubsampling="420")


def padded(*files: bytes) -> np.ndarray:
    """As a store hands them out: zeros behind their ends."""
    longest = max(map(len, files))
    return np.stack([np.frombuffer(file.ljust(longest, b"\0"), np.uint8) for file in files])


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def test_every_image_is_what_pil_sees_and_a_smaller_one_lies_top_left_on_black():
    files = [jpeg(0), jpeg(1, (40, 56)), jpeg(2)]
    images, bad = decode_batch(padded(*files), SIZE, CPU)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not bad.any()
    got = images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got[0], pixels(files[0]))
    np.testing.assert_array_equal(got[2], pixels(files[2]))
    np.testing.assert_array_equal(got[1, :40, :56], pixels(files[1]))
    assert not got[1, 40:].any()
    assert not got[1, :, 56:].any()


BAD = {
    "empty": b"",
    "no JPEG": b"GIF89a, and then some",
    "cut short": jpeg(5)[:-200],
    "without its end": jpeg(5)[:-2],
    "larger than the store's crops": jpeg(5, (56, 64)),
    "no header": jpeg(5)[:20] + b"\xff\xd9",
}


@pytest.mark.parametrize("file", BAD.values(), ids=BAD)
def test_a_bad_file_is_black_and_marked_and_costs_no_other_image(file):
    files = [jpeg(0), file, jpeg(2)]
    images, bad = decode_batch(padded(*files), SIZE, CPU)
    assert bad.tolist() == [False, True, False]
    got = images.permute(0, 2, 3, 1).numpy()
    assert not got[1].any()
    for position in (0, 2):
        np.testing.assert_array_equal(got[position], pixels(files[position]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="here torchvision may well decode on CUDA")
def test_a_device_that_cannot_decode_is_refused_with_a_sentence():
    check_decoder(CPU)
    with pytest.raises(InputError, match=r"needs a torchvision that decodes JPEG on cuda, .*: train with --no-decode"):
        check_decoder(torch.device("cuda"))
