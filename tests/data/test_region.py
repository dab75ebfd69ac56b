"""Region of interest and sizes, by hand."""

import numpy as np
import pytest

from isod.data.objects import Annotation
from isod.data.prepare.region import FAR, Region, areas, clip, scale
from isod.errors import InputError
from isod.vocabulary import SIZES, size_codes


def objects(*boxes):
    return Annotation.build(boxes, range(1, len(boxes) + 1), [False] * len(boxes))


def test_far_region_is_the_middle_of_a_zod_frame():
    assert (FAR.width, FAR.height) == (1280, 384)
    assert FAR.x0 == 3848 - FAR.x1  # as far from the left as from the right
    assert FAR.y0 == 2168 - FAR.y1


def test_clip_by_hand():
    region = Region(100, 50, 200, 150)
    inside = [120, 60, 140, 80]  # moves by (−100, −50)
    half = [80, 60, 120, 80]  # 20 of its 40 columns are inside: a share of 1/2
    corner = [190, 140, 210, 160]  # 10×10 of its 20×20 pixels: a share of 1/4
    beside = [200, 60, 220, 80]  # begins where the region ends
    around = [0, 0, 400, 400]  # 100×100 of 160000: a share of 1/16
    got = clip(objects(inside, half, corner, beside, around), region, min_visible=0.25)
    assert got.boxes.tolist() == [[20, 10, 40, 30], [0, 10, 20, 30], [90, 90, 100, 100]]
    assert got.labels.tolist() == [1, 2, 3]
    assert clip(objects(inside, half, corner, beside, around), region, min_visible=0.26).labels.tolist() == [1, 2]
    assert clip(objects(inside, half, corner, beside, around), region, min_visible=0).labels.tolist() == [1, 2, 3, 5]
    assert clip(objects(inside, half, corner), region, min_visible=1).labels.tolist() == [1]


def test_clip_keeps_shapes_without_objects():
    got = clip(objects([0, 0, 5, 5]), FAR, 0.25)
    assert (got.boxes.shape, got.labels.shape, got.dont_care.shape) == ((0, 4), (0,), (0,))
    assert clip(got, FAR, 0.25).boxes.shape == (0, 4)


def test_clip_leaves_the_original_alone():
    original = objects([120, 60, 240, 80])
    clip(original, Region(100, 50, 200, 150), 0)
    scale(original, 0.5, 0.25)
    assert original.boxes.tolist() == [[120, 60, 240, 80]]


def test_scale_by_hand():
    assert scale(objects([8, 16, 80, 160]), 0.125, 0.25).boxes.tolist() == [[1, 4, 10, 40]]


def test_sizes_by_hand():
    """A crop of 1000×100 has 100000 pixels: 330 is 0.33 % (medium), 3000 is 3 % (still medium)."""
    boxes = np.array([[0, 0, 329, 1], [0, 0, 330, 1], [0, 0, 300, 10], [0, 0, 300, 10.1]], dtype=np.float32)
    assert [SIZES[i] for i in size_codes(boxes, (100, 1000))] == ["small", "medium", "medium", "large"]
    assert areas(np.array([[5, 5, 4, 9]], dtype=np.float32)).tolist() == [0]


@pytest.mark.parametrize("corners", [(10, 0, 10, 5), (-1, 0, 10, 5), (0, 7, 10, 5)])
def test_a_region_without_area_is_refused(corners):
    with pytest.raises(InputError, match="region of interest"):
        Region(*corners)


def test_cut_is_smaller_where_the_image_ends():
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    assert Region(25, 15, 35, 25).cut(image).shape == (5, 5, 3)
    assert Region(30, 0, 40, 10).cut(image).size == 0
