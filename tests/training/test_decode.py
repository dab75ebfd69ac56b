"""Batches of JPEG files decoded where they are trained on; PIL says what is in them."""

import io
from unittest import mock

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from isod.errors import InputError
from isod.training import decode
from isod.training.decode import check_decoder, decode_batch, on_gpu, on_host

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


def contents(images: torch.Tensor) -> np.ndarray:
    """[B, H, W, 3]"""
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    return images.permute(0, 2, 3, 1).numpy()


def assert_good(files: list[bytes], images: torch.Tensor, bad: np.ndarray) -> None:
    """Every image is what PIL sees, and black where it ends before the others."""
    assert not bad.any()
    for file, got in zip(files, contents(images), strict=True):
        expected = np.zeros((*SIZE, 3), np.uint8)
        seen = pixels(file)
        expected[: seen.shape[0], : seen.shape[1]] = seen
        np.testing.assert_array_equal(got, expected)


GOOD = {
    "of one size": [jpeg(0), jpeg(1), jpeg(2)],
    "one smaller": [jpeg(0), jpeg(1, (40, 56)), jpeg(2)],
    "with more behind the end": [jpeg(0), jpeg(1) + b"made by a camera", jpeg(2)],
}


@pytest.mark.parametrize("files", GOOD.values(), ids=GOOD)
def test_every_image_is_what_pil_sees(files):
    assert_good(files, *decode_batch(padded(*files), SIZE, CPU))


@pytest.mark.parametrize("files", list(GOOD.values())[:2], ids=list(GOOD)[:2])
def test_what_a_gpu_is_asked_for_is_the_same_without_the_host(files):
    """torchvision decodes on a CPU too, called the same way."""
    with mock.patch.object(decode, "on_host", side_effect=AssertionError("the host was asked")):
        assert_good(files, *on_gpu([bytearray(file) for file in files], SIZE, CPU))


MIDDLE = len(jpeg(5)) // 2
BAD = {
    "empty": b"",
    "no JPEG": b"GIF89a, and then some",
    "cut short": jpeg(5)[:-200],
    "without its end": jpeg(5)[:-2],
    "larger than the store's crops": jpeg(5, (56, 64)),
    "no header": jpeg(5)[:20] + b"\xff\xd9",
    "damaged in the middle": jpeg(5)[:MIDDLE] + b"\xff\xc4" + jpeg(5)[MIDDLE + 2 :],
}


# A GPU's decoder may not notice damage in the middle, as the docstring says.
PLACES = [(name, "CPU") for name in BAD] + [(name, "GPU") for name in BAD if name != "damaged in the middle"]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_bad_file_is_black_and_marked_and_costs_no_other_image(name, place):
    files = [jpeg(0), BAD[name], jpeg(2)]
    if place == "CPU":
        images, bad = decode_batch(padded(*files), SIZE, CPU)
    else:
        images, bad = on_gpu([bytearray(file) for file in files], SIZE, CPU)
    assert bad.tolist() == [False, True, False]
    got = contents(images)
    assert not got[1].any()
    for position in (0, 2):
        np.testing.assert_array_equal(got[position], pixels(files[position]))


@pytest.mark.parametrize(
    ("message", "raised"),
    [
        ("Error while decoding JPEG images: CUDA out of memory. Tried to allocate", torch.OutOfMemoryError),
        ("Failed to create nvjpeg: NVJPEG_STATUS_ALLOCATOR_FAILURE", torch.OutOfMemoryError),
        ("Error while decoding JPEG images: NVJPEG_STATUS_EXECUTION_FAILED", RuntimeError),
    ],
)
def test_a_decoder_that_fails_on_good_files_is_no_reason_to_go_on_slowly(message, raised):
    with (
        mock.patch.object(decode, "decode_files", side_effect=RuntimeError(message)),
        pytest.raises(RuntimeError, match=message) as error,
    ):
        on_gpu([bytearray(jpeg(0))], SIZE, CPU)
    assert type(error.value) is raised


@pytest.mark.skipif(torch.cuda.is_available(), reason="here torchvision may well decode on CUDA")
def test_a_gpu_that_cannot_decode_is_refused_with_a_sentence():
    check_decoder(CPU)
    with pytest.raises(InputError, match=r"needs a torchvision that decodes JPEG on cuda, .*: train with --no-decode"):
        check_decoder(torch.device("cuda"))


def test_the_host_decodes_as_a_store_does():
    images, bad = on_host([bytearray(jpeg(3)), bytearray(b"no")], SIZE)
    assert bad.tolist() == [False, True]
    np.testing.assert_array_equal(contents(images)[0], pixels(jpeg(3)))
