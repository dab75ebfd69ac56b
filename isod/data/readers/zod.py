"""ZOD Frames (Zenseact Open Dataset), through its devkit, the package ``zod``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from isod.data.demo.zod_layout import is_demo, planted_faults
from isod.data.faults import Fault
from isod.data.objects import Annotation
from isod.data.prepare.region import areas
from isod.data.readers.base import FrameError, file_error
from isod.errors import InputError, one_line
from isod.files import has_control_characters
from isod.vocabulary import Split

# Labels 1…4. The devkit's other classes are static (poles, signs, …) and left out; its own COCO export drops Animal.
CLASS_NAMES = ("Pedestrian", "Vehicle", "VulnerableVehicle", "Animal")
LABELS = {name: label for label, name in enumerate(CLASS_NAMES, 1)}
VERSIONS = ("full", "mini")
MAX_ANNOTATION = 2**26  # bytes of one frame's annotation
ANONYMIZATIONS = ("blur", "dnat", "original")


@contextmanager
def _devkit_installed() -> Iterator[None]:
    """Turn a failed import into one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"reading ZOD needs the package {error.name}: pip install 'isod[zod]'") from None


@dataclass(frozen=True)
class ZodFrameRef:
    """One frame of ZOD."""

    frame_id: str
    image_path: str
    annotation_path: str | None  # None: not annotated
    size: tuple[int, int] | None  # (height, width), pixels

    def objects(self) -> Annotation:
        """Parse the frame's object_detection.json.

        Raises:
            FrameError: the annotation is missing, is damaged, or has a box without an area.
            InputError: it cannot be read for a reason that may pass; or the devkit is not installed.
        """
        with _devkit_installed():
            from zod.anno.parser import parse_object_detection_annotation
        if self.annotation_path is None:
            raise FrameError("it has no object_detection annotation")
        try:
            if os.stat(self.annotation_path).st_size > MAX_ANNOTATION or not os.path.isfile(self.annotation_path):
                raise FrameError(f"its annotation is not a regular file of at most {MAX_ANNOTATION} bytes")
            annotations = parse_object_detection_annotation(self.annotation_path)
        except FrameError:
            raise
        except OSError as error:
            raise file_error("its annotation", self.annotation_path, error) from None
        except Exception as error:
            # The devkit checks nothing itself: a damaged file makes it fail with any error.
            raise FrameError(f"its annotation is damaged: {type(error).__name__}: {one_line(error)}") from None
        if not all(isinstance(item.name, str) for item in annotations):
            raise FrameError("its annotation is damaged: the class of an object is not text")
        kept = [item for item in annotations if item.name in LABELS or item.unclear]
        dont_care = [bool(item.unclear) for item in kept]
        objects = Annotation.build(
            [item.box2d.xyxy for item in kept],
            [0 if unclear else LABELS[item.name] for item, unclear in zip(kept, dont_care, strict=True)],
            dont_care,
        )
        for item, box, area in zip(kept, objects.boxes, areas(objects.boxes), strict=True):
            if not np.isfinite(box).all() or area <= 0:
                raise FrameError(f"the box {box.tolist()} of annotation {item.uuid} has no area or is not finite")
        return objects


class ZodReader:
    """ZOD Frames in the devkit's own splits: the four dynamic classes; unclear objects of any class are don't-care."""

    source = "zod"
    class_names = CLASS_NAMES

    def __init__(self, root: str | os.PathLike[str], version: str = "full", anonymization: str = "blur") -> None:
        """Open the dataset; no frame is read.

        Args:
            root: the folder that holds trainval-frames-VERSION.json.
            version: "full" or "mini".
            anonymization: "blur", "dnat" or "original", whichever images are there.
        Raises:
            InputError: root holds no ZOD Frames of this version, or lists no image of this anonymization; or the devkit
                is not installed.
        """
        self.root = Path(root).resolve()
        self.version = version
        self.anonymization = anonymization
        if version not in VERSIONS:
            raise InputError(f"ZOD's version must be one of {VERSIONS}, got {version!r}")
        if anonymization not in ANONYMIZATIONS:
            raise InputError(f"ZOD's anonymization must be one of {ANONYMIZATIONS}, got {anonymization!r}")
        listing = self.root / f"trainval-frames-{version}.json"
        if not listing.is_file():
            raise InputError(
                f"{root} does not hold ZOD Frames {version!r}: there is no {listing.name} in it. Name the folder that "
                "holds it, or another version."
            )
        with self._devkit():
            found = any(self._image(self._dataset[key]) for split in ("train", "val") for key in self._ids(split))
        if not found:
            raise InputError(
                f"{listing} lists no frame with a front camera image of anonymization {anonymization!r}. Choose "
                "another one, or download these images."
            )

    @property
    def demo(self) -> bool:
        """Whether this is isod's own demo data."""
        return is_demo(self.root)

    @property
    def settings(self) -> dict[str, object]:
        """Root, version and anonymization, and the SHA-256 of the list of frames."""
        listing = self.root / f"trainval-frames-{self.version}.json"
        return {
            "root": str(self.root),
            "version": self.version,
            "anonymization": self.anonymization,
            "sha256": hashlib.sha256(listing.read_bytes()).hexdigest(),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """Empty: a frame with a damaged annotation is lost, and the report lists it."""
        return ()

    def frames(self, split: Split) -> list[ZodFrameRef]:
        """Return the devkit's frames of a split, sorted by id; those it calls "blacklisted" are in neither."""
        with self._devkit():
            return [self._ref(frame_id) for frame_id in self._ids(split)]

    def _ref(self, frame_id: str) -> ZodFrameRef:
        frame = self._dataset[frame_id]
        image, annotation = self._image(frame), self._annotation(frame)
        for path in (image.filepath if image else None, annotation):
            inside = path is None or os.path.normpath(path).startswith(f"{self.root}{os.sep}")
            if not inside or has_control_characters(f"{frame_id}{path or ''}"):
                raise InputError(
                    f"frame {frame_id!r} of {self.root} lists the file {path!r}: its files must be inside that "
                    "folder, and have no control characters in their names"
                )
        return ZodFrameRef(
            frame_id=frame_id,
            image_path=image.filepath if image else "",
            annotation_path=annotation,
            size=(int(image.height), int(image.width)) if image else None,
        )

    def known_faults(self, split: Split) -> list[Fault] | None:
        """Return the faults of the demo data; None for ZOD itself, which has no list.

        Raises:
            InputError: the demo's list is damaged.
        """
        with self._devkit():
            return planted_faults(self.root, self._ids(split))

    @cached_property
    def _dataset(self) -> Any:
        with _devkit_installed():
            from zod import ZodFrames

        # The devkit's own pool forks, which Ray and Lance forbid.
        return ZodFrames(str(self.root), self.version, mp=False)

    @contextmanager
    def _devkit(self) -> Iterator[None]:
        """Turn any error of the devkit into one sentence."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            # The devkit checks nothing itself: what is not ZOD makes it fail with any error.
            raise InputError(
                f"{self.root} is not ZOD Frames: the devkit cannot read trainval-frames-{self.version}.json "
                f"({type(error).__name__}: {one_line(error)})"
            ) from None

    def _ids(self, split: str) -> list[str]:
        return sorted(self._dataset.get_split(split))

    def _image(self, frame: Any) -> Any | None:
        """Return the devkit's CameraFrame of the front camera at the key moment; None if the frame lists none."""
        from zod.constants import Anonymization

        if not frame.info.camera_frames.get(f"front_{self.anonymization}"):
            return None
        return frame.info.get_key_camera_frame(Anonymization(self.anonymization))

    def _annotation(self, frame: Any) -> str | None:
        from zod.constants import AnnotationProject

        project = AnnotationProject.OBJECT_DETECTION
        return frame.info.annotations[project].filepath if frame.is_annotated(project) else None


def find(path: Path) -> list[list[str]]:
    """Return the arguments of ``isod prepare zod`` for every version that a folder holds."""
    held = [name for name in VERSIONS if (path / f"trainval-frames-{name}.json").is_file()]
    return [[str(path), "--version", name] for name in held]
