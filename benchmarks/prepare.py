"""Frames per second from full-size JPEG to crop store, beside a straightforward OpenCV loop in a process pool.

    python -m benchmarks.prepare [--frames 600] [--turns 3] [--processes N]

The same for both: full-size frames (3848×2168) with as much detail all over as a demo frame has in its far region, read
from disk, decoded whole or as far as needed, the far region cut out and encoded as JPEG of the same quality and chroma,
on as many processes as there are cores. The OpenCV loop writes every crop to a file of its own and knows no boxes. Ours
besides that reads each frame's annotation, clips its boxes, counts them, journals every chunk and writes a store of
random access. Ray, its workers and the pool are started before, by a turn that does not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import ray
import simplejpeg

from benchmarks.harness import comparison, installed, seconds, take_turns
from isod.cli.main import exit_cleanly
from isod.data.demo.zod_layout import write_demo
from isod.data.prepare.job import prepare
from isod.data.prepare.region import FAR
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.zod import ZodReader
from isod.orchestration.cluster import connect

SETTINGS = PrepareSettings(roi=FAR)


def add_detail(path: Path) -> None:
    """Repeat a demo frame's far region all over it: the rest is smooth, and would decode faster than a camera's."""
    frame = simplejpeg.decode_jpeg(path.read_bytes())
    height, width, _ = frame.shape
    region = frame[FAR.y0 : FAR.y1, FAR.x0 : FAR.x1]
    detailed = np.tile(region, (height // FAR.height + 1, width // FAR.width + 1, 1))[:height, :width].copy()
    detailed[FAR.y0 : FAR.y1, FAR.x0 : FAR.x1] = region
    path.write_bytes(simplejpeg.encode_jpeg(detailed, quality=85, colorsubsampling="420"))


def cut_with_opencv(paths: tuple[str, str]) -> None:
    """The peer's work on one frame: read, decode, cut, encode, write."""
    import cv2

    cv2.setNumThreads(1)
    frame = cv2.imread(paths[0])
    assert frame is not None
    crop = frame[FAR.y0 : FAR.y1, FAR.x0 : FAR.x1]
    cv2.imwrite(paths[1], crop, [cv2.IMWRITE_JPEG_QUALITY, SETTINGS.jpeg_quality])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600, metavar="N")
    parser.add_argument("--turns", type=int, default=3, metavar="N")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args()
    connect(cpus=options.processes)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool,
    ):
        root = Path(folder) / "zod"
        write_demo(root, frames=options.frames)
        frames = sorted(root.glob("single_frames/*/camera_front_blur/*.jpg"))
        list(pool.map(add_detail, frames))

        def fresh() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        def ours() -> float:
            store = fresh() / "store"
            return len(frames) / seconds(lambda: prepare(ZodReader(root, "mini"), store, SETTINGS, progress=False))

        def opencv() -> float:
            installed("opencv-python-headless")
            crops = fresh()
            jobs = [(str(path), str(crops / path.name)) for path in frames]
            return len(frames) / seconds(lambda: list(pool.map(cut_with_opencv, jobs, chunksize=4)))

        contenders: dict[str, Callable[[], float]] = {"isod prepare": ours, "OpenCV in a process pool": opencv}
        figures = take_turns(contenders, options.turns, warm_up=1)
    ray.shutdown()
    print(
        f"The same for both: {len(frames)} detailed frames of 3848×2168, the far region cut and encoded at quality "
        f"{SETTINGS.jpeg_quality}, {options.processes} processes.\n"
    )
    targets = {"OpenCV in a process pool": 1.5}
    print(comparison(figures, "frames/s", less_is_better=False, targets=targets))


if __name__ == "__main__":
    sys.exit(exit_cleanly("benchmarks.prepare", None, main))
