"""Every reader of files that somebody else may have made: a valid input of it, and a call that reads one."""

import io
import json
import random
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from isod.data.demo.zod_layout import write_demo
from isod.data.faults import faults_from_json
from isod.data.objects import Annotation
from isod.data.prepare.crop import make_rows
from isod.data.prepare.decode import decode_image
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers.base import FrameError, Reader
from isod.data.readers.coco import CocoReader
from isod.data.readers.kitti import KittiReader
from isod.data.readers.voc import VocReader
from isod.data.readers.yolo import YoloReader
from isod.data.readers.zod import ZodFrameRef, ZodReader
from isod.data.store.address import write_text
from isod.data.store.crops import decode_into
from isod.data.store.meta import StoreMeta
from isod.data.store.split import CropStore
from isod.data.store.writer import Row, commit, write_fragment
from isod.errors import InputError
from isod.vocabulary import SPLITS
from tests.data.written_formats import made_set, write_kitti, write_voc, write_yolo
from tests.system.fuzz.mutate import NASTY, damaged, damaged_json


@dataclass(frozen=True)
class Target:
    """One reader. ``read`` may raise ``refusals`` and nothing else."""

    seeds: list[bytes]
    read: Callable[[bytes], None]
    refusals: tuple[type[BaseException], ...] = (InputError, FrameError)
    mutate: Callable[[bytes, random.Random], bytes] = damaged


def coco(folder: Path) -> Target:
    """Both jsons, the objects of every frame, and its rows (no image decodes)."""
    images = folder / "images"
    (images / "sub").mkdir(parents=True)
    for name in ("b.jpg", "sub/a.jpg"):
        (images / name).write_bytes(_jpeg())
    (images / "out").symlink_to("/etc")
    (images / "loop").symlink_to("loop")
    good = {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 24, "height": 16, "video_id": 1},
            {"id": 3, "file_name": "sub/a.jpg", "width": 24, "height": 16, "video_id": "x"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 20, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0.5, 0.5, 9.75, 1], "iscrowd": 1},
        ],
        "categories": [{"id": 20, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    (folder / "val.json").write_text(json.dumps(good))

    def read(data: bytes) -> None:
        (folder / "train.json").write_bytes(data)
        reader = CocoReader((images, folder / "train.json"), (images, folder / "val.json"))
        for split in ("train", "val"):
            for place, ref in enumerate(reader.frames(split)):
                make_rows(ref, place, PrepareSettings())
                ref.sequence.encode()
        json.dumps(reader.settings).encode()
        "".join(reader.class_names).encode()

    return Target([json.dumps(good).encode()], read, mutate=damaged_json)


def _read_all(reader: Reader, settings: PrepareSettings) -> None:
    """Go through every frame of a reader, as the job does."""
    for split in SPLITS:
        for place, ref in enumerate(reader.frames(split)):
            for row in make_rows(ref, place, settings):
                assert np.isfinite(row.objects.boxes).all()
                assert row.objects.boxes.min(initial=0) >= 0
    json.dumps([reader.settings, list(reader.notes)]).encode()
    "".join(reader.class_names).encode()


def yolo_yaml(folder: Path) -> Target:
    """data.yaml, and a list of images."""
    root = folder / "set"
    write_yolo(root, made_set(2, 2))
    (root / "images/train/out").symlink_to("/etc")
    (root / "train.txt").write_text("images/train/000000.jpg\n")

    def read(data: bytes) -> None:
        (root / "data.yaml").write_bytes(data)
        _read_all(YoloReader(root / "data.yaml"), PrepareSettings())

    seeds = [
        (root / "data.yaml").read_bytes(),
        b"train: [images/train]\nval: ../images/val\nnames:\n  0: bike\n  1: car\n  2: person\nkpt_shape: [0, 3]\n",
        b"path: .\ntrain: train.txt\nval: images/val\nnc: 3\nnames: ['a', \"b\", c]\n",
    ]
    return Target(seeds, read)


def yolo_labels(folder: Path) -> Target:
    """The label file of an image, or a list of images."""
    root = folder / "set"
    write_yolo(root, made_set(2, 2))
    seed = (root / "labels/train/000000.txt").read_bytes()
    listing = root / "train.txt"
    yaml = (root / "data.yaml").read_text()

    def read(data: bytes) -> None:
        is_list = data.startswith(b"images")
        listing.write_bytes(data if is_list else b"images/train/000000.jpg")
        (root / "data.yaml").write_text(yaml.replace("images/train", "train.txt") if is_list else yaml)
        (root / "labels/train/000000.txt").write_bytes(seed if is_list else data)
        _read_all(YoloReader(root), PrepareSettings(resize=(16, 8)))

    polygons = b"1 0.1 0.2 0.3 0.4 0.5 0.6\n0 0 0 1 0 1 1 0 1\n"
    return Target([seed, polygons, b"images/train/000000.jpg\nimages/train/000001.jpg\n"], read)


def voc(folder: Path) -> Target:
    """The XML file of an image, or a list of ids."""
    root = folder / "set"
    write_voc(root, made_set(2, 2, dont_care=True))
    path, ids = root / "Annotations/000000.xml", root / "ImageSets/Main/train.txt"
    seeds = [path.read_bytes(), ids.read_bytes()]

    def read(data: bytes) -> None:
        is_list = data.startswith(b"0")
        path.write_bytes(seeds[0] if is_list else data)
        ids.write_bytes(data if is_list else seeds[1])
        _read_all(VocReader(root), PrepareSettings())

    return Target(seeds, read)


def kitti(folder: Path) -> Target:
    """The label file of an image, or a list of ids."""
    root = folder / "set"
    write_kitti(root, made_set(2, 2))
    path, ids = root / "training/label_2/000000.txt", root / "ImageSets/train.txt"
    seeds = [path.read_bytes(), ids.read_bytes()]

    def read(data: bytes) -> None:
        is_list = data.startswith(b"0")
        path.write_bytes(seeds[0] if is_list else data)
        ids.write_bytes(data if is_list else seeds[1])
        _read_all(KittiReader(root, max_occluded=1), PrepareSettings())

    return Target(seeds, read)


def zod_listing(folder: Path) -> Target:
    """trainval-frames-mini.json, through the devkit."""
    write_demo(folder / "zod", frames=5, seed=0)
    listing = folder / "zod/trainval-frames-mini.json"

    def read(data: bytes) -> None:
        listing.write_bytes(data)
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            reader = ZodReader(folder / "zod", "mini")
            for split in ("train", "val"):
                for ref in reader.frames(split):
                    assert not ref.image_path or ref.image_path.startswith(str(folder))
                reader.known_faults(split)

    return Target([listing.read_bytes()], read, mutate=damaged_json)


def zod_annotation(folder: Path) -> Target:
    """object_detection.json, through the devkit."""
    write_demo(folder / "zod", frames=2, seed=0)
    seeds = [path.read_bytes() for path in sorted((folder / "zod").glob("single_frames/*/annotations/*.json"))]

    def read(data: bytes) -> None:
        (folder / "annotation.json").write_bytes(data)
        objects = ZodFrameRef("f", "", str(folder / "annotation.json"), (2168, 3848)).objects()
        assert np.isfinite(objects.boxes).all()

    return Target(seeds, read, mutate=damaged_json)


def image(folder: Path) -> Target:
    """Images of a dataset."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8))
    seeds = [_jpeg(), _jpeg(64, 24)]  # the larger one is not decoded whole where 8 rows are asked for
    for kind, mode in (
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
        ("PPM", "RGB"),
    ):
        data = io.BytesIO()
        picture.convert(mode).save(data, kind, **({"progressive": True} if (kind, mode) == ("JPEG", "RGB") else {}))
        seeds.append(data.getvalue())

    def read(data: bytes) -> None:
        for rows in (None, 8):
            pixels, size, _, _ = decode_image(data, None, rows)
            assert pixels.shape[1:] == (size[1], 3)
            assert min(8, size[0]) <= len(pixels) <= size[0]
            assert pixels.dtype == np.uint8

    return Target(seeds, read, (FrameError,))


def crop(folder: Path) -> Target:
    """JPEGs of a store, decoded into a place of its crop size."""
    place = np.zeros((16, 24, 3), np.uint8)
    return Target([_jpeg(), _jpeg(8, 12)], lambda data: decode_into(place, data), (ValueError,))


def store_json(folder: Path) -> Target:
    """store.json, and what is worked out from it before Lance is opened."""
    seed = _meta().to_json().encode()

    def read(data: bytes) -> None:
        (folder / "store.json").write_bytes(data)
        store = CropStore.open(folder)
        for name in store.meta.rows:
            split = store.split(name)
            assert len(split.readable) == len(split) - len(split.lost)
        StoreMeta.from_json(store.meta.to_json(), "again")

    return Target([seed], read, mutate=damaged_json)


def faults_json(folder: Path) -> Target:
    """faults.json of a store."""
    fault = {
        "split": "train",
        "index": 1,
        "kind": "wrong_class",
        "box": [1, 2, 3, 4],
        "class": "car",
        "annotated_as": None,
    }
    (folder / "store.json").write_text(_meta().to_json())

    def read(data: bytes) -> None:
        (folder / "faults.json").write_bytes(data)
        CropStore.open(folder).split("train").wrong_examples()

    seed = json.dumps({"faults": [fault]}).encode()
    faults_from_json(seed.decode(), "train")
    return Target([seed], read, mutate=damaged_json)


def sequences_json(folder: Path) -> Target:
    """sequences.json of a store."""
    meta = _meta()
    (folder / "store.json").write_text(meta.to_json())
    seed = json.dumps({split: ["a", "b"] * (rows // 2) + ["c"] * (rows % 2) for split, rows in meta.rows.items()})

    def read(data: bytes) -> None:
        (folder / "sequences.json").write_bytes(data)
        split = CropStore.open(folder).split("train")
        assert len(split.sequences() or ()) == len(split)

    read(seed.encode())
    return Target([seed.encode()], read, mutate=damaged_json)


def lance(folder: Path) -> Target:
    """The files of a store's Lance dataset, one of them damaged."""
    uri = str(folder / "store")
    rows = [
        Row(
            i,
            f"frame{i}",
            _jpeg(192, 256),  # large enough for crops before the part of the file that the checksum covers
            None,
            Annotation.build([[1, 1, 2, 5]] * (i % 3), [1, 0][: i % 3], [False, True][: i % 3]),
            (192, 256),
        )
        for i in range(4)
    ]
    checksums = {split: commit(uri, split, [write_fragment(uri, split, rows)]) for split in ("train", "val")}
    write_text(uri, "store.json", replace(_meta(), crop_size=(192, 256), checksums=checksums).to_json())
    files = sorted(path for path in Path(uri, "train.lance").rglob("*") if path.is_file())
    seeds = [bytes([number]) + path.read_bytes() for number, path in enumerate(files)]

    def read(data: bytes) -> None:
        path, good = files[data[0] % len(files)] if data else files[0], seeds[data[0] % len(files)] if data else b""
        path.write_bytes(data[1:])
        try:
            split = CropStore.open(uri).split("train")
            split.read([0, 1, 2, 3], quarantine=True)
            split.annotations()
        finally:
            path.write_bytes(good[1:])

    def mutate(data: bytes, rng: random.Random) -> bytes:
        return data[:1] + damaged(data[1:], rng)

    return Target(seeds, read, mutate=mutate)


def command(folder: Path) -> Target:
    """Command lines that find nothing to read, so that nothing runs."""
    from isod.cli.main import main

    words = [
        "train",
        "results",
        "prepare",
        "coco",
        "zod",
        "--out",
        "--store",
        "--seed",
        "--sampler",
        "--preset",
        "--train",
        "--val",
        "--roi",
        "--arg",
        "a=b",
        "no_package:reader",
        "..no_package:reader",
        "--tiles",
        "--resize",
        "--min-visible",
        "--tracking-uri",
        "--experiment",
        "--device",
        "--width",
        "--iterations",
        "--batch-size",
        "--lag",
        "--lr",
        str(folder / "nothing"),
        "sqlite:////nothing/x.db",
        "UIS",
        "1e999",
        "-1",
        "0",
        "99999999999999999999",
        "nan",
        *(n for n in NASTY if isinstance(n, str)),
    ]

    def mutate(data: bytes, rng: random.Random) -> bytes:
        kept = json.loads(data)
        chosen = [w if rng.random() < 0.9 else rng.choice(words) for w in kept]
        for _ in range(rng.randrange(4)):
            chosen.insert(rng.randrange(1, len(chosen) + 1), rng.choice(words))
        return json.dumps(chosen).encode()

    def read(data: bytes) -> None:
        with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
            try:
                code = main(json.loads(data))
            except SystemExit as error:  # argparse
                code = int(error.code or 0)
        assert code in (0, 2), said.getvalue()

    nowhere = str(folder / "nothing")
    lines = [
        ["train", nowhere, "--out", str(folder / "out"), "--sampler", "UIS"],
        ["results", "--tracking-uri", "sqlite:////nothing/x.db", "--experiment", "e", "--out", str(folder / "out")],
        ["prepare", "coco", str(folder / "store"), "--train", nowhere, nowhere, "--val", nowhere, nowhere],
        ["prepare", "zod", nowhere, str(folder / "store"), "--version", "mini", "--roi", "0", "0", "9", "9"],
        ["prepare", "no_package:reader", str(folder / "store"), "--arg", "a=b"],
    ]
    return Target([json.dumps(line).encode() for line in lines], read, mutate=mutate)


READERS: dict[str, Callable[[Path], Target]] = {
    "coco": coco,
    "yolo-yaml": yolo_yaml,
    "yolo-labels": yolo_labels,
    "voc": voc,
    "kitti": kitti,
    "zod-listing": zod_listing,
    "zod-annotation": zod_annotation,
    "image": image,
    "crop": crop,
    "store.json": store_json,
    "faults.json": faults_json,
    "sequences.json": sequences_json,
    "lance": lance,
    "command": command,
}


def _jpeg(height: int = 16, width: int = 24) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=90)
    return data


def _meta() -> StoreMeta:
    return StoreMeta(
        class_names=("car",),
        crop_size=(16, 24),
        source="coco",
        demo=False,
        settings={"resize": None, "tiles": [1, 1]},
        rows={"train": 4, "val": 4},
        lost={"train": {}, "val": {2: "gone"}},
        counts={"train": {"car": {"small": 1, "medium": 0, "large": 2}}},
    )
