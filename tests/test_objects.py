"""The padded block of a batch's objects: by hand, and laws that hold for any batch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from isod.objects import Objects

COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def random_objects(counts, seed=0):
    rng = np.random.default_rng(seed)
    boxes = [rng.random((n, 4)).astype(np.float32) for n in counts]
    labels = [rng.integers(1, 5, n) for n in counts]
    return boxes, labels, [rng.random(n) < 0.5 for n in counts]


def test_two_images_by_hand():
    objects = Objects.from_lists([[[1, 2, 3, 4], [5, 6, 7, 8]], []], [[2, 3], []], [[False, True], []])
    assert objects.boxes.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[0, 0, 0, 0]] * 2]
    assert objects.labels.tolist() == [[2, 0], [0, 0]]  # a don't-care object has no class
    assert objects.dont_care.tolist() == [[False, True], [False, False]]
    assert objects.counts.tolist() == [2, 0]
    assert objects.valid.tolist() == [[True, True], [False, False]]
    assert [value.dtype for value in vars(objects).values()] == [np.float32, np.int64, bool, np.int64]


def test_no_object_at_all_leaves_one_place():
    assert Objects.from_lists([[], []], [[], []]).boxes.shape == (2, 1, 4)


@given(COUNTS)
def test_every_image_gets_its_own_back(counts):
    boxes, labels, dont_care = random_objects(counts)
    objects = Objects.from_lists(boxes, labels, dont_care)
    for image in range(len(counts)):
        found = objects.of(image)
        np.testing.assert_array_equal(found[0], boxes[image])
        np.testing.assert_array_equal(found[1], np.where(dont_care[image], 0, labels[image]))
        np.testing.assert_array_equal(found[2], dont_care[image])


@given(COUNTS)
def test_torchvisions_form_gives_the_same(counts):
    boxes, labels, dont_care = random_objects(counts)
    targets = [
        {"boxes": torch.from_numpy(b), "labels": torch.from_numpy(c), "dont_care": torch.from_numpy(d)}
        for b, c, d in zip(boxes, labels, dont_care, strict=True)
    ]
    ours, theirs = Objects.from_lists(boxes, labels, dont_care), Objects.from_targets(targets)
    for name in vars(ours):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@given(COUNTS, st.data())
def test_an_emptied_image_has_none_and_the_others_theirs(counts, data):
    objects = Objects.from_lists(*random_objects(counts))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts))))
    emptied = objects.emptied(mask)
    assert not emptied.valid[mask].any()
    assert not emptied.boxes[mask].any()
    for name in vars(objects):
        np.testing.assert_array_equal(getattr(emptied, name)[~mask], getattr(objects, name)[~mask])


@given(COUNTS, st.data())
def test_mirroring_twice_changes_nothing(counts, data):
    """Boxes with whole numbers, so that width − (width − x) is exactly x."""
    boxes, labels, dont_care = random_objects(counts)
    objects = Objects.from_lists([np.rint(b * 30) for b in boxes], labels, dont_care).to(torch.device("cpu"))
    flip = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts))))
    once = objects.mirrored(flip, 32)
    assert torch.equal(once.mirrored(flip, 32).boxes, objects.boxes)
    assert torch.equal(once.area(), objects.area())
    assert torch.equal(once.boxes[~objects.valid], objects.boxes[~objects.valid])  # padding stays 0
