"""A detector that can be checked by hand: it finds rectangles of pure colour, exactly."""

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from isod.config.settings import DetectorConfig
from isod.detector.saved import ModelDescription, save_model

COLOURS = {1: (255, 0, 0), 2: (0, 255, 0)}  # class → colour
NAMES = ("red", "green")
SCORES = {1: 0.875, 2: 0.75}


class Blobs(nn.Module):
    """Class c is every connected area of its colour; the box is what surrounds it."""

    provides = frozenset()

    def __init__(self):
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1))

    def loss(self, images, objects, *, example_weights=None):
        raise NotImplementedError

    def detect(self, images):
        return [self._of(image.permute(1, 2, 0).numpy().astype(int)) for image in images]

    def _of(self, pixels):
        boxes, labels = [], []
        for label, colour in COLOURS.items():
            areas, _ = ndimage.label((np.abs(pixels - np.array(colour)) < 100).all(axis=2))
            for rows, columns in ndimage.find_objects(areas):
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                labels.append(label)
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor([SCORES[label] for label in labels]),
        }


def build(config, num_classes, seed):
    return Blobs()


def save_blobs(folder, *, crop_size=(8, 8), **preparation):
    """A saved model of this detector. ``crop_size`` is no limit: the network takes larger crops."""
    description = ModelDescription(
        detector=DetectorConfig(name=f"{__name__}:build"),
        class_names=NAMES,
        crop_size=crop_size,
        preparation={"source": "coco", "roi": None, "tiles": None, "resize": None} | preparation,
    )
    save_model(folder, Blobs(), description)
    return folder


def picture(path, size, *rectangles):
    """A black PNG of (width, height) with rectangles (class, x0, y0, x1, y1)."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for label, x0, y0, x1, y1 in rectangles:
        pixels[y0:y1, x0:x1] = COLOURS[label]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
