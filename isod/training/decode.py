"""JPEG files decoded where they are trained on, a batch at a time: on a GPU by nvJPEG, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from isod.data.store.crops import decode_all
from isod.errors import InputError, one_line

END = b"\xff\xd9"  # of a whole JPEG file


def check_decoder(device: torch.device) -> None:
    """Raises InputError if torchvision does not decode on the GPU; on a CPU it is not asked to."""
    if device.type == "cpu":
        return
    try:
        decode_files([bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))], device)
    except (RuntimeError, ImportError) as error:  # built without nvJPEG, or without images at all
        raise InputError(
            f"decode_on_device needs a torchvision that decodes JPEG on {device.type}, and this one does not "
            f"({one_line(error)}): train with --no-decode-on-device"
        ) from None


def decode_files(files: Sequence[bytearray], device: torch.device) -> list[Tensor]:
    """RGB images [3, H, W] uint8 on the device. Raises RuntimeError if one of them does not decode."""
    from torchvision.io import ImageReadMode, decode_jpeg  # deprecated since torchvision 0.29: only for who asks for it

    return decode_jpeg([torch.frombuffer(file, dtype=torch.uint8) for file in files], ImageReadMode.RGB, device)


def decode_batch(
    padded: NDArray[np.uint8], size: tuple[int, int], device: torch.device
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Decode a batch on the device; waits until it is done.

    A GPU's decoder rounds differently from the host's, and may not notice damage in the middle of a file.

    Args:
        padded: [B, L] uint8, JPEG files with zeros behind their ends.
        size: (H, W), pixels; smaller images lie top left on black, larger ones count as bad.
    Returns:
        Images [B, 3, H, W] uint8 in channels-last memory on the device, and which are bad and so black, [B] bool.
    Raises:
        RuntimeError: the GPU decodes no more, though the files are good.
        torch.OutOfMemoryError: it has no memory for them.
    """
    files = [bytearray(file) for file in padded]
    for file in files:
        del file[file.rfind(END) + len(END) :]  # what follows is no part of it; without an end it is bad
    if device.type == "cpu":
        return on_host(files, size)
    torch.cuda.current_stream(device).synchronize()  # the decoder writes on a stream of its own: to memory not in use
    return on_gpu(files, size, device)


def on_gpu(files: Sequence[bytearray], size: tuple[int, int], device: torch.device) -> tuple[Tensor, NDArray[np.bool_]]:
    """By torchvision. Where one file is bad the host decodes them all: it costs time, and its example, and no other."""
    failure = None
    if all(_fits(file, size) for file in files):
        try:
            return _stacked(decode_files(files, device), size), np.zeros(len(files), dtype=bool)
        except RuntimeError as error:
            failure = error
    images, bad = on_host(files, size)
    if failure is not None and not bad.any():
        if "memory" in str(failure) or "ALLOCATOR" in str(failure):  # torchvision makes one error of all that happens
            raise torch.OutOfMemoryError(str(failure)) from failure
        raise failure
    return images.to(device), bad


def on_host(files: Sequence[bytearray], size: tuple[int, int]) -> tuple[Tensor, NDArray[np.bool_]]:
    """By the decoder, and with the strictness, of ``CropSplit.read``."""
    images, faults = decode_all([memoryview(file) for file in files], size)
    bad = np.zeros(len(files), dtype=bool)
    bad[list(faults)] = True
    return torch.from_numpy(images).permute(0, 3, 1, 2), bad


def _fits(file: bytearray, size: tuple[int, int]) -> bool:
    """Whether the file has a header and an end, and its image is no larger than ``size``."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(file)
    except ValueError:
        return False
    return height <= size[0] and width <= size[1] and file.endswith(END)


def _stacked(images: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """[B, 3, H, W] in channels-last memory; smaller images lie top left on black."""
    whole = [
        image if image.shape[1:] == size else F.pad(image, (0, size[1] - image.shape[2], 0, size[0] - image.shape[1]))
        for image in images
    ]
    return torch.stack(whole).contiguous(memory_format=torch.channels_last)
