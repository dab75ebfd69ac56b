"""A crop store of a few drawn crops whose labels are chosen by the test."""

import numpy as np
import simplejpeg

from isod.data.objects import Annotation
from isod.data.store.address import write_text
from isod.data.store.meta import StoreMeta
from isod.data.store.writer import Row, commit, write_fragment

SIZE = (48, 64)  # height, width


def scene(seed, size=SIZE):
    """A picture of random large patches, [H, W, 3] uint8: no two seeds are alike."""
    patches = np.random.default_rng(seed).integers(0, 255, (8, 9, 1), dtype=np.uint8)
    picture = np.kron(patches, np.ones((size[0] // 8 + 1, size[1] // 9 + 1, 3), np.uint8))
    return np.ascontiguousarray(picture[: size[0], : size[1]])


def write_store(uri, train, val, names, *, tiles=None):
    """Write a store.

    Args:
        train, val: of each crop, its frame's name, its picture [H, W, 3] (None: lost), and its objects, each a tuple
            (label, x0, y0, x1, y1); label 0 is don't-care.
    """
    splits = {"train": train, "val": val}
    lost, counts = {}, {}
    for split, crops in splits.items():
        rows = []
        for index, (frame, picture, objects) in enumerate(crops):
            labels = [label for label, *_ in objects]
            found = Annotation.build([box for _, *box in objects], labels, [label == 0 for label in labels])
            if picture is None:
                rows.append(Row(index, frame, None, "gone", Annotation.build([], [], []), (0, 0)))
            else:
                jpeg = simplejpeg.encode_jpeg(picture, quality=95)
                rows.append(Row(index, frame, jpeg, None, found, picture.shape[:2]))
        commit(str(uri), split, [write_fragment(str(uri), split, rows)])
        lost[split] = {index: "gone" for index, crop in enumerate(crops) if crop[1] is None}
        numbers = [label for _, _, objects in crops for label, *_ in objects]
        counts[split] = {name: {"medium": numbers.count(n)} for n, name in enumerate(names, 1)}
    meta = StoreMeta(
        class_names=tuple(names), crop_size=SIZE, source="made", demo=False,
        settings={} if tiles is None else {"tiles": list(tiles)},
        rows={split: len(crops) for split, crops in splits.items()}, lost=lost, counts=counts,
    )  # fmt: skip
    write_text(str(uri), "store.json", meta.to_json())
    return str(uri)
