"""JPEG files decoded where they are trained on, a batch at a time: on a GPU by nvJPEG, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor

from isod.data.store import decode_into
from isod.errors import InputError, one_line

END = b"\xff\xd9"  # of a whole JPEG file


def check_decoder(device: torch.device) -> None:
    """Raises InputError if torchvision does not decode on the device."""
    file = np.frombuffer(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)), np.uint8)
    try:
        decode_files([file], device)
    except (RuntimeError, ImportError) as error:  # built without nvJPEG, or without images at all
        raise InputError(
            f"decode_on_device needs a torchvision that decodes JPEG on {device.type}, and this one does not "
            f"({one_line(error)}): train with --no-decode-on-device"
        ) from None


def decode_files(files: Sequence[NDArray[np.uint8]], device: torch.device) -> list[Tensor]:
    """RGB images [3, H, W] uint8 on the device. Raises RuntimeError if one of them does not decode."""
    from torchvision.io import ImageReadMode, decode_jpeg  # deprecated since torchvision 0.29: only for who asks for it

    return decode_jpeg([torch.from_numpy(file.copy()) for file in files], ImageReadMode.RGB, device)


def decode_batch(
    padded: NDArray[np.uint8], size: tuple[int, int], device: torch.device
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Decode a batch on the device.

    Where one of its files does not decode there, all are decoded as ``CropSplit.read`` does it: so a bad file costs
    time, and its example, and no other one.

    Args:
        padded: [B, L] uint8, JPEG files with zeros behind their ends.
        size: (H, W), pixels; smaller images lie top left on black, larger ones count as bad.
    Returns:
        Images [B, 3, H, W] uint8 in channels-last memory on the device, and which are bad and so black, [B] bool.
    """
    files = [np.trim_zeros(file, "b") for file in padded]
    try:
        for file in files:
            height, width, _, _ = simplejpeg.decode_jpeg_header(file)
            if height > size[0] or width > size[1] or file[-2:].tobytes() != END:
                raise ValueError  # a GPU's decoder might fill in what is missing
        decoded = decode_files(files, device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError):
        images, bad = _decode_on_host(files, size)
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(device), bad
    if all(image.shape[1:] == size for image in decoded):
        batch = torch.stack(decoded)
    else:
        batch = torch.zeros(len(decoded), 3, *size, dtype=torch.uint8, device=device)
        for place, image in zip(batch, decoded, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
    if device.type == "cuda":  # torchvision made them on a CUDA stream of its own, which may want their memory back
        for image in decoded:
            image.record_stream(torch.cuda.current_stream(device))
    return batch.contiguous(memory_format=torch.channels_last), np.zeros(len(files), dtype=bool)


def _decode_on_host(
    files: Sequence[NDArray[np.uint8]], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    images = np.zeros((len(files), *size, 3), np.uint8)
    bad = np.zeros(len(files), dtype=bool)
    for position, file in enumerate(files):
        try:
            decode_into(images[position], file)
        except ValueError:
            images[position], bad[position] = 0, True
    return images, bad
