"""Demo data: a small synthetic dataset in ZOD Frames' own layout on disk, which the ``zod`` devkit opens.

It replaces a large dataset that one must apply for, so that everything can be tried without a download. README.txt and
isod-demo.json say so; the latter marks every crop store made of it, and every result repeats it. The module ``scene``
describes what the frames show, and why drawing matters there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import simplejpeg

from isod.data.demo.scene import (
    CLASS_NAMES,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    VEHICLE,
    DemoObject,
    DemoSettings,
    FarRegion,
    render_far_region,
    split_of,
)
from isod.data.faults import Fault
from isod.data.prepare.region import FAR
from isod.errors import InputError, one_line, require
from isod.files import atomic_write, parse_json

__all__ = ["MARKER", "TRUTH", "DemoSettings", "is_demo", "render_far_region", "write_demo"]

MARKER = "isod-demo.json"  # marks ROOT as demo data; written first
TRUTH = "isod-demo-truth.json"  # which training labels are wrong or missing
TRAINVAL = "trainval-frames-mini.json"  # the devkit's list of frames; written last
BACKGROUNDS = 6
JPEG_QUALITY = 85

README = """This is NOT the Zenseact Open Dataset. It is synthetic stand-in data in the same layout on disk, written by
`isod demo` (isod-demo.json has the settings). Results from it say nothing about real roads.

Frames         3848x2168 JPEG, camera_front_blur only: nothing in them needs blurring, and there is no dnat or original.
               The objects of interest are in the far region, x 1284...2564, y 892...1276.
Not there      lidar, radar, calibration, ego motion, oxts.
Classes        Vehicle: large, bright, in most frames. Pedestrian, VulnerableVehicle, Animal: faint striped patches of
               one range of sizes, told apart by the direction of the stripes alone; in few training frames.
Splits         Validation frames hold the three rare classes much more often than training frames do (by default in
               50 % against 5 % of the frames), so that average precision is measured on enough of them.
Wrong labels   A known share of the training annotations has the wrong class or is missing (by default 6 % each):
               isod-demo-truth.json lists them. Validation annotations are right.
"""


def write_demo(
    root: str | os.PathLike[str],
    *,
    frames: int = 1000,
    seed: int = 0,
    settings: DemoSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write demo data that ``zod.ZodFrames(root, "mini")`` opens. The same seed and settings give the same bytes.

    A second call resumes one that was interrupted. No-op if it was finished.

    Args:
        root: a new or empty folder, or one that the same call wrote to before.
        frames: number of frames; one in five is for validation, by default.
        seed: ≥ 0.
        progress: called with the number of frames finished since its last call.
    Raises:
        InputError: the folder holds something else, or cannot be written to, or the disk is full.
    """
    root, settings = Path(root), settings or DemoSettings()
    require(1 <= frames <= 999_999, "the number of demo frames must be 1…999999", frames)
    require(seed >= 0, "the seed of the demo must be ≥ 0", seed)
    try:
        if _claim_folder(root, {"frames": frames, "seed": seed, "settings": asdict(settings)}):
            _write_frames(root, frames, seed, settings, progress)
    except OSError as error:
        raise InputError(f"cannot write demo data to {root}: {error.strerror or error}") from None


def is_demo(root: str | os.PathLike[str]) -> bool:
    """Whether a folder holds demo data that ``write_demo`` wrote."""
    return (Path(root) / MARKER).is_file()


def planted_faults(root: str | os.PathLike[str], frame_ids: Sequence[str]) -> list[Fault] | None:
    """Return the wrong annotations that ``write_demo`` gave these frames; None if the folder has no list of them.

    Args:
        frame_ids: of a split, in its order; a fault's index is a place in it.
    Raises:
        InputError: the list is damaged.
    """
    path = Path(root) / TRUTH
    places = {frame_id: place for place, frame_id in enumerate(frame_ids)}
    try:
        return [
            Fault.from_entry(places[entry["frame_id"]], entry)
            for entry in parse_json(path.read_bytes())["faults"]
            if entry["frame_id"] in places
        ]  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {one_line(error)}): "
            "make the demo data again, or remove this file"
        ) from None


def _claim_folder(root: Path, job: dict[str, Any]) -> bool:
    """Mark the folder as this job's. Returns False if the job is finished already."""
    job = {"what": "synthetic stand-in data, not ZOD; see README.txt", "format_version": 1, **job}
    text = json.dumps(job, indent=1)
    if is_demo(root):
        if (root / MARKER).read_text() != text:
            raise InputError(f"{root} holds demo data of other settings or another seed: name another folder")
        return not (root / TRAINVAL).exists()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is not empty and holds no demo data: name a new folder")
    root.mkdir(parents=True, exist_ok=True)
    _write_text(root / MARKER, text)
    (root / "README.txt").write_text(README, encoding="utf-8")
    return True


def _write_frames(
    root: Path, frames: int, seed: int, settings: DemoSettings, progress: Callable[[int], None] | None
) -> None:
    """Write all frames, then the lists. In threads, as NumPy and the JPEG encoder release the interpreter lock."""
    backgrounds = [_background(seed, number) for number in range(BACKGROUNDS)]
    thread = local()

    def write(i: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if not hasattr(thread, "canvas"):
            thread.canvas = np.empty((FRAME_HEIGHT, FRAME_WIDTH, 3), dtype=np.uint8)
        np.copyto(thread.canvas, backgrounds[i % BACKGROUNDS])
        return _write_frame(root, thread.canvas, settings, seed, i)

    trainval: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "blacklisted": []}
    faults: list[dict[str, Any]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for i, (info, frame_faults) in enumerate(pool.map(write, range(frames))):
                trainval[split_of(settings, i)].append(info)
                faults += frame_faults
                if progress is not None:
                    progress(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _write_json(root / TRUTH, {"what": "wrong and missing training annotations of the demo data", "faults": faults})
    _write_json(root / TRAINVAL, trainval)


def _write_frame(
    root: Path, canvas: np.ndarray, settings: DemoSettings, seed: int, i: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw frame i over its background and write its files, info.json last; files of an earlier call are kept.

    Returns:
        The frame's entry in the devkit's list, and its faults in the truth file.
    """
    frame_id = f"{i:06d}"
    folder = f"single_frames/{frame_id}"
    time = datetime(2022, 1, 1, tzinfo=UTC) + timedelta(seconds=i)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    image_file = f"{folder}/camera_front_blur/{frame_id}_demo_{stamp}.jpg"
    annotation_file = f"{folder}/annotations/object_detection.json"
    info = {
        "id": frame_id,
        "start_time": stamp,
        "end_time": stamp,
        "keyframe_time": stamp,
        "calibration_path": f"{folder}/calibration.json",
        "ego_motion_path": f"{folder}/ego_motion.json",
        "metadata_path": f"{folder}/metadata.json",
        "oxts_path": f"{folder}/oxts.hdf5",
        "vehicle_data_path": None,
        "annotations": {"object_detection": {"filepath": annotation_file, "project": "object_detection"}},
        "camera_frames": {
            "front_blur": [{"filepath": image_file, "time": stamp, "height": FRAME_HEIGHT, "width": FRAME_WIDTH}]
        },
        "lidar_frames": {},
    }
    far = render_far_region(settings, seed, i)
    objects = [item.moved(FAR.x0, FAR.y0) for item in far.truth]
    done = root / folder / "info.json"
    if not done.exists():
        near = _draw_frame(canvas, far, seed, i)
        annotations = [
            _annotation(seed, i, number, item)
            for number, item in enumerate(objects)
            if item.fault != "missing_box"
        ]  # fmt: skip
        annotations += near
        (root / image_file).parent.mkdir(parents=True, exist_ok=True)
        (root / annotation_file).parent.mkdir(parents=True, exist_ok=True)
        jpeg = simplejpeg.encode_jpeg(canvas, quality=JPEG_QUALITY, colorsubsampling="420")
        (root / image_file).write_bytes(jpeg)
        _write_json(root / annotation_file, annotations)
        _write_json(root / folder / "metadata.json", _metadata(frame_id, stamp, objects))
        _write_json(done, info)
    faults = [
        {
            "frame_id": frame_id,
            "kind": item.fault,
            "annotation_uuid": _uuid(seed, i, number) if item.fault == "wrong_class" else None,
            "box": item.box,  # xyxy, pixels of the full frame
            "class": CLASS_NAMES[item.label - 1],
            "annotated_as": CLASS_NAMES[item.annotated_label - 1] if item.annotated_label else None,
        }
        for number, item in enumerate(objects)
        if item.fault
    ]
    return info, faults


def _background(seed: int, number: int) -> np.ndarray:
    """Return a smooth sky over a smooth road, [2168, 3848, 3] uint8, which makes a small JPEG."""
    rng = np.random.default_rng((seed, number, 7))
    y = np.linspace(0, 1, FRAME_HEIGHT, dtype=np.float32)[:, None]
    road = 1 / (1 + np.exp(-(y - 0.52) / 0.03))
    rows = rng.uniform(120, 180, 3) * (1 - road) * (1.1 - 0.2 * y) + rng.uniform(80, 120, 3) * road  # [2168, 3]
    return np.ascontiguousarray(np.broadcast_to(rows[:, None], (FRAME_HEIGHT, FRAME_WIDTH, 3))).astype(np.uint8)


def _draw_frame(canvas: np.ndarray, far: FarRegion, seed: int, i: int) -> list[dict[str, Any]]:
    """Draw the far region, and a near vehicle and a traffic sign outside of it. Return annotations of these two."""
    canvas[FAR.y0 : FAR.y1, FAR.x0 : FAR.x1] = far.image
    rng = np.random.default_rng((seed, i, 11))
    annotations = []
    if rng.random() < 0.4:
        width, height = int(rng.uniform(300, 700)), int(rng.uniform(250, 500))
        x, y = int(rng.integers(0, FRAME_WIDTH - width)), int(rng.integers(FAR.y1 + 20, FRAME_HEIGHT - height))
        canvas[y : y + height, x : x + width] = rng.integers(150, 250, 3)
        canvas[y + height // 8 : y + height // 2, x + width // 8 : x + width - width // 8] = 45
        box = (float(x), float(y), float(x + width), float(y + height))
        annotations.append(_annotation(seed, i, 900, DemoObject(box, VEHICLE, annotated_label=VEHICLE)))
    if rng.random() < 0.3:
        x, y = int(rng.integers(100, FAR.x0 - 200)), int(rng.integers(500, FAR.y0))
        canvas[y : y + 90, x : x + 90] = (200, 40, 40)
        sign = _annotation(seed, i, 901, DemoObject((x, y, x + 90.0, y + 90.0), VEHICLE, annotated_label=VEHICLE))
        sign["properties"] |= {"class": "TrafficSign", "type": None, "traffic_content_visible": "True"}
        annotations.append(sign)
    return annotations


def _annotation(seed: int, i: int, number: int, item: DemoObject) -> dict[str, Any]:
    """Return an object as ZOD's object_detection.json has it: four extreme points, and properties."""
    x0, y0, x1, y1 = item.box
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    name = CLASS_NAMES[(item.annotated_label or item.label) - 1]
    properties: dict[str, Any] = {
        "annotation_uuid": _uuid(seed, i, number),
        "class": name,
        "unclear": item.dont_care,
        "occlusion_ratio": "Medium" if item.occluded else "None",
    }
    if name == "Vehicle":
        properties["type"] = "Car"
    if name == "VulnerableVehicle":
        properties |= {"type": "Bicycle", "with_rider": "True"}
    points = [[x0, middle_y], [middle_x, y0], [x1, middle_y], [middle_x, y1]]
    return {"geometry": {"type": "MultiPoint", "coordinates": points}, "properties": properties}


def _metadata(frame_id: str, stamp: str, objects: list[DemoObject]) -> dict[str, Any]:
    """Return metadata.json as the devkit parses it; what does not exist is "demo", 0 or False."""
    count = {name: sum(item.label == label for item in objects) for label, name in enumerate(CLASS_NAMES, 1)}
    return {
        "frame_id": frame_id,
        "time": stamp,
        "country_code": "demo",
        "scraped_weather": "demo",
        "collection_car": "demo",
        "road_type": "demo",
        "road_condition": "demo",
        "time_of_day": "day",
        "num_lane_instances": 0,
        "num_vehicles": count["Vehicle"],
        "num_vulnerable_vehicles": count["VulnerableVehicle"],
        "num_pedestrians": count["Pedestrian"],
        "num_traffic_lights": 0,
        "num_traffic_signs": 0,
        "longitude": 0.0,
        "latitude": 0.0,
        "solar_angle_elevation": 0.0,
    }


def _uuid(seed: int, i: int, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"isod demo {seed} {i} {number}"))


def _write_json(path: Path, content: object) -> None:
    _write_text(path, json.dumps(content))


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)
