"""What the demo frames show: a planted problem in which drawing matters (spec §11).

Most frames hold a large, bright Vehicle or nothing. A detector learns them within a few hundred iterations; then they
are of no more use. A few training frames hold Pedestrian, VulnerableVehicle and Animal: faint patches of one brightness
and one range of sizes, which differ only in the direction of their stripes. Half of the validation frames hold them, so
that their average precision is measured on enough objects and has the same weight as Vehicle's. Validation labels are
correct; a known share of the training labels is wrong or missing.

Frame i of a seed depends on (settings, seed, i) alone, not on the number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from isod.data.faults import FaultKind
from isod.data.prepare.region import FAR
from isod.errors import require
from isod.vocabulary import Split

CLASS_NAMES = ("Pedestrian", "Vehicle", "VulnerableVehicle", "Animal")  # labels 1…4, as ZodReader numbers them
PEDESTRIAN, VEHICLE, VULNERABLE_VEHICLE, ANIMAL = 1, 2, 3, 4
RARE = (PEDESTRIAN, VULNERABLE_VEHICLE, ANIMAL)
FRAME_HEIGHT, FRAME_WIDTH = 2168, 3848  # pixels, ZOD's


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Everything that makes the demo easy or hard. Pixels are those of the full frame; grey levels are 0…255."""

    val_every: int = 5  # every so many frames one is for validation

    vehicle_frames: float = 0.8  # share of frames with vehicles in the far region
    vehicles: tuple[int, int] = (1, 3)  # how many there, smallest and largest
    vehicle_width: tuple[int, int] = (36, 240)  # pixels
    occluded: float = 0.25  # share of vehicles with something in front of them

    rare_frames_train: float = 0.05  # share of training frames with objects of the rare classes
    rare_frames_val: float = 0.5  # and of validation frames
    rare_objects: tuple[int, int] = (2, 5)  # how many in such a frame
    rare_shares: tuple[float, float, float] = (0.45, 0.35, 0.2)  # Pedestrian, VulnerableVehicle, Animal among them
    rare_size: tuple[int, int] = (56, 120)  # pixels, each side
    rare_contrast: float = 40.0  # amplitude of the stripes, grey levels
    rare_offset: float = -16.0  # how much darker than what is behind, grey levels
    rare_period: tuple[float, float] = (32.0, 48.0)  # of the stripes, pixels
    rare_angles: tuple[float, float, float] = (0.0, 90.0, 45.0)  # Pedestrian, VulnerableVehicle, Animal; degrees
    rare_angle_spread: float = 10.0  # ± degrees

    unclear_frames: float = 0.12  # share of frames with one object that nobody can tell (don't-care)
    clutter: tuple[int, int] = (4, 10)  # soft blobs of objects' size that are none
    clutter_contrast: float = 18.0  # grey levels
    noise: float = 9.0  # standard deviation of the noise, grey levels
    noise_grain: int = 4  # pixels: so that the noise outlives a resize

    wrong_class: float = 0.06  # share of the rare classes' training objects annotated as another of them
    wrong_vehicle: float = 0.01  # share of training vehicles annotated as one of the rare classes
    missing_box: float = 0.06  # share of training objects not annotated

    def __post_init__(self) -> None:
        require(self.val_every >= 2, "val_every must be ≥ 2", self.val_every)
        for name in ("vehicle_frames", "occluded", "rare_frames_train", "rare_frames_val", "unclear_frames"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be in [0, 1]", getattr(self, name))
        for name in ("vehicles", "vehicle_width", "rare_objects", "rare_size", "rare_period", "clutter"):
            low, high = getattr(self, name)
            require(0 <= low <= high, f"{name} must be (smallest, largest)", (low, high))
        for name in ("wrong_class", "wrong_vehicle"):
            share = getattr(self, name)
            require(0 <= share + self.missing_box <= 1, f"{name} + missing_box must be in [0, 1]",
                    (share, self.missing_box))  # fmt: skip


@dataclass(frozen=True)
class DemoObject:
    """One object as it is, and as it is annotated."""

    box: tuple[float, float, float, float]  # xyxy, pixels of the image it is drawn in
    label: int  # true class, 1…4
    dont_care: bool = False  # drawn so that nobody can tell its class, and annotated as unclear
    occluded: bool = False
    fault: FaultKind | None = None
    annotated_label: int = field(default=0)  # 0 if unclear or not annotated

    def moved(self, dx: float, dy: float) -> DemoObject:
        """The same object in the pixels of a larger image."""
        x0, y0, x1, y1 = self.box
        return replace(self, box=(x0 + dx, y0 + dy, x1 + dx, y1 + dy))


class FarRegion(NamedTuple):
    """The far region of one frame; boxes, labels and dont_care are the annotation, faults included."""

    image: np.ndarray  # [384, 1280, 3] uint8
    boxes: np.ndarray  # [n, 4] float32, xyxy, pixels of the region
    labels: np.ndarray  # [n] int64, 1…4; 0 for don't-care
    dont_care: np.ndarray  # [n] bool
    truth: list[DemoObject]  # every object that was drawn


def split_of(settings: DemoSettings, i: int) -> Split:
    """Return the split of frame i."""
    return "val" if i % settings.val_every == settings.val_every - 1 else "train"


def render_far_region(settings: DemoSettings, seed: int, i: int) -> FarRegion:
    """Return the far region of frame i: image and annotation as ``write_demo`` writes them, before JPEG.

    Args:
        settings: of the whole demo.
        seed: ≥ 0.
        i: number of the frame, ≥ 0.
    """
    rng = np.random.default_rng((seed, i))
    split = split_of(settings, i)
    canvas = _background(settings, rng)
    objects = _vehicles(settings, rng, canvas)
    if _is_rare_frame(settings, seed, i, split):
        objects += _rare_objects(settings, rng, canvas, objects)
    if rng.random() < settings.unclear_frames:
        objects += _unclear_object(settings, rng, canvas, objects)
    _add_noise(settings, rng, canvas)
    if split == "train":
        objects = [_with_fault(settings, rng, item) for item in objects]
    shown = [item for item in objects if item.fault != "missing_box"]
    return FarRegion(
        image=np.clip(canvas, 0, 255).astype(np.uint8),
        boxes=np.array([item.box for item in shown], dtype=np.float32).reshape(-1, 4),
        labels=np.array([item.annotated_label for item in shown], dtype=np.int64),
        dont_care=np.array([item.dont_care for item in shown], dtype=bool),
        truth=objects,
    )


def _is_rare_frame(settings: DemoSettings, seed: int, i: int, split: Split) -> bool:
    """Whether frame i holds rare classes: evenly spread, so that every 20 frames of a split hold their share of them
    and a small demo set is as rare as a large one."""
    val_before = i // settings.val_every
    place = val_before if split == "val" else i - val_before  # the frame's place within its split
    share = settings.rare_frames_val if split == "val" else settings.rare_frames_train
    block_rng = np.random.default_rng((seed, 1 if split == "val" else 0, place // 20, 20))
    order = block_rng.permutation(20)
    return bool(order[place % 20] < int(share * 20 + block_rng.random()))


def _background(settings: DemoSettings, rng: np.random.Generator) -> np.ndarray:
    """Sky, hills, road and soft clutter, all of this frame's own colours and places: [384, 1280, 3] float32."""
    height, width = FAR.height, FAR.width
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]  # [384, 1]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]  # [1, 1280]
    light = rng.uniform(0.75, 1.1)
    sky, hill, road = (rng.uniform(low, high, 3).astype(np.float32) * light
                       for low, high in ((115, 160), (85, 125), (90, 120)))  # fmt: skip
    horizon = rng.uniform(0.3, 0.55)
    skyline = horizon + sum(
        rng.uniform(0.01, 0.06) * np.sin(2 * np.pi * (x * rng.uniform(0.7, 4) + rng.random())) for _ in range(3)
    )
    is_hill = _step(y - skyline + 0.08, 0.01)[..., None]  # [384, 1280, 1]
    is_road = _step(y - horizon - 0.12, 0.05)[..., None]
    canvas = sky + (y * 25)[..., None]
    canvas = canvas * (1 - is_hill) + hill * is_hill
    canvas = canvas * (1 - is_road) + road * is_road
    canvas = canvas.astype(np.float32)  # [384, 1280, 3]
    for _ in range(rng.integers(settings.clutter[0], settings.clutter[1] + 1)):
        size = rng.uniform(40, 140, 2)
        place = _place(rng, size[0], size[1])
        patch = _window(int(size[0]), int(size[1]), power=2)
        _paint(canvas, place, patch * rng.uniform(-1, 1) * settings.clutter_contrast)
    return canvas


def _vehicles(settings: DemoSettings, rng: np.random.Generator, canvas: np.ndarray) -> list[DemoObject]:
    """Bright boxes with a dark window and wheels; some behind a post or a bush."""
    objects: list[DemoObject] = []
    if rng.random() >= settings.vehicle_frames:
        return objects
    for _ in range(rng.integers(settings.vehicles[0], settings.vehicles[1] + 1)):
        width = int(rng.uniform(*settings.vehicle_width))
        height = int(width * rng.uniform(0.6, 0.85))
        place = _free_place(rng, width, height, objects, limit=0.3)
        if place is None:
            continue
        x, y = place
        body = rng.uniform(185, 250, 3).astype(np.float32)
        body[rng.integers(3)] *= rng.uniform(0.3, 1)
        area = canvas[y : y + height, x : x + width]
        area[: int(height * 0.85)] = body
        area[int(height * 0.12) : int(height * 0.45), int(width * 0.12) : int(width * 0.88)] = 45
        for left in (0.08, 0.72):
            area[int(height * 0.72) :, int(width * left) : int(width * (left + 0.2))] = 25
        occluded = bool(rng.random() < settings.occluded)
        if occluded:
            covered = int(width * rng.uniform(0.2, 0.5))
            start = int(rng.integers(0, width - covered + 1))
            area[:, start : start + covered] = rng.uniform(70, 130, 3)
        objects.append(DemoObject(_xyxy(place, width, height), VEHICLE, occluded=occluded, annotated_label=VEHICLE))
    return objects


def _rare_objects(
    settings: DemoSettings, rng: np.random.Generator, canvas: np.ndarray, others: list[DemoObject]
) -> list[DemoObject]:
    """Faint striped patches; the class is in the direction of the stripes alone."""
    objects: list[DemoObject] = []
    for _ in range(rng.integers(settings.rare_objects[0], settings.rare_objects[1] + 1)):
        width, height = (int(rng.uniform(*settings.rare_size)) for _ in range(2))
        kind = int(rng.choice(3, p=settings.rare_shares))
        place = _free_place(rng, width, height, [*others, *objects], limit=0.0)
        if place is None:
            continue
        angle = np.deg2rad(settings.rare_angles[kind] + rng.uniform(-1, 1) * settings.rare_angle_spread)
        if kind == 2 and rng.random() < 0.5:
            angle = -angle  # an Animal's stripes lean either way
        y, x = np.mgrid[:height, :width].astype(np.float32)
        phase = (x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(*settings.rare_period) + rng.random()
        stripes = settings.rare_contrast * np.cos(2 * np.pi * phase).astype(np.float32) + settings.rare_offset
        _paint(canvas, place, stripes[..., None] * _window(width, height, power=8))
        objects.append(DemoObject(_xyxy(place, width, height), RARE[kind], annotated_label=RARE[kind]))
    return objects


def _unclear_object(
    settings: DemoSettings, rng: np.random.Generator, canvas: np.ndarray, others: list[DemoObject]
) -> list[DemoObject]:
    """A dark patch without stripes: something is there, and nobody can tell what."""
    width, height = (int(rng.uniform(*settings.rare_size)) for _ in range(2))
    place = _free_place(rng, width, height, others, limit=0.0)
    if place is None:
        return []
    _paint(canvas, place, 2 * settings.rare_offset * _window(width, height, power=8))
    return [DemoObject(_xyxy(place, width, height), RARE[int(rng.integers(3))], dont_care=True)]


def _with_fault(settings: DemoSettings, rng: np.random.Generator, item: DemoObject) -> DemoObject:
    """The object with its annotation spoilt, by chance; unclear ones are left alone."""
    chance, choice = rng.random(), rng.random()
    if item.dont_care:
        return item
    wrong = settings.wrong_vehicle if item.label == VEHICLE else settings.wrong_class
    if chance < wrong:
        others = [label for label in RARE if label != item.label]
        return replace(item, fault="wrong_class", annotated_label=others[int(choice * len(others))])
    if chance < wrong + settings.missing_box:
        return replace(item, fault="missing_box", annotated_label=0)
    return item


def _add_noise(settings: DemoSettings, rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Noise with a grain of several pixels, alike in all colours."""
    height, width = canvas.shape[:2]
    grain = settings.noise_grain
    coarse = rng.standard_normal((height // grain, width // grain), dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    canvas += np.asarray(smooth)[..., None] * settings.noise


def _step(x: np.ndarray, softness: float) -> np.ndarray:
    """0 for negative x, 1 for positive, with a soft edge."""
    return 1 / (1 + np.exp(-np.clip(x / softness, -30, 30)))


def _window(width: int, height: int, power: int) -> np.ndarray:
    """[height, width, 1] float32: 1 in the middle, 0 at the rim of a superellipse; a high power is nearly a box."""
    x = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None, :]
    y = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
    return np.clip(1 - x**power - y**power, 0, 1)[..., None]


def _paint(canvas: np.ndarray, place: tuple[int, int], patch: np.ndarray) -> None:
    """Add a patch [h, w, 1] to the canvas at (x, y)."""
    x, y = place
    canvas[y : y + patch.shape[0], x : x + patch.shape[1]] += patch


def _place(rng: np.random.Generator, width: float, height: float) -> tuple[int, int]:
    """(x, y) of the top left corner of something that lies wholly inside the far region."""
    return int(rng.integers(0, FAR.width - int(width))), int(rng.integers(0, FAR.height - int(height)))


def _free_place(
    rng: np.random.Generator, width: int, height: int, others: list[DemoObject], limit: float
) -> tuple[int, int] | None:
    """A place where no more than ``limit`` of this object overlaps any other; None after some tries."""
    for _ in range(20):
        x, y = _place(rng, width, height)
        overlaps = [
            max(0.0, min(x + width, x1) - max(x, x0)) * max(0.0, min(y + height, y1) - max(y, y0))
            for x0, y0, x1, y1 in (other.box for other in others)
        ]
        if max(overlaps, default=0.0) <= limit * width * height:
            return x, y
    return None


def _xyxy(place: tuple[int, int], width: int, height: int) -> tuple[float, float, float, float]:
    return float(place[0]), float(place[1]), float(place[0] + width), float(place[1] + height)
