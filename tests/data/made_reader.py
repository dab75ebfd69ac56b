"""A reader as somebody else's package has it: every frame shows the same image. A trap is a frame that kills or stops
the process that reads it, for as long as the trap's file exists."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from isod.data.objects import Annotation

TRAP = 16  # the frame of the training split that has the trap


@dataclass(frozen=True)
class MadeFrame:
    frame_id: str
    image_path: str
    trap: str | None = None
    size: tuple[int, int] = (20, 30)

    def objects(self):
        if self.trap is not None and os.path.exists(self.trap):
            Path(f"{self.trap}-entered").touch()
            if self.trap.endswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return Annotation.build([[int(self.frame_id) % 10, 0, 20, 10]], [1 + int(self.frame_id) % 2], [False])


@dataclass(frozen=True)
class MadeReader:
    root: str
    train: int
    trap: str | None
    class_names: tuple[str, ...] = ("car", "boat")
    source = "made"
    demo = False
    notes = ("note: all images are the same",)

    @property
    def settings(self):
        return {"root": self.root, "train": self.train}

    def frames(self, split):
        image = f"{self.root}/image.jpg"
        if split == "val":
            return [MadeFrame(f"{i:03d}", image) for i in range(4)]
        return [MadeFrame(f"{i:03d}", image, self.trap if i == TRAP else None) for i in range(self.train)]

    def known_faults(self, split):
        return None


def reader(root, train="40", trap=None):
    Path(root).mkdir(exist_ok=True)
    image = np.full((20, 30, 3), 90, np.uint8)
    Path(root, "image.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    return MadeReader(str(root), int(train), trap)
