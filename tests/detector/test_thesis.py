"""Targets, loss, network and inference against hand-worked geometry, torchvision, and laws."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou_loss

from isod.config.settings import DetectorConfig
from isod.detector.boxes import paired_iou
from isod.detector.inference import suppress
from isod.detector.thesis.inference import candidates
from isod.detector.thesis.loss import detection_loss
from isod.detector.thesis.network import Backbone, Network, projection
from isod.detector.thesis.targets import assign_targets, decode_boxes, encode_boxes
from isod.objects import Objects

TINY = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))


def detections(logits, offsets, image_size, config):
    return suppress(*candidates(logits, offsets, image_size), config)


def objects(*images: list[tuple[list[float], int]]) -> Objects:
    """One list of (box, label) per image; label 0 is don't-care."""
    boxes = [np.array([box for box, _ in image], np.float32).reshape(-1, 4) for image in images]
    labels = [np.array([label for _, label in image], np.int64) for image in images]
    return Objects.from_lists(boxes, labels, [item == 0 for item in labels]).to(torch.device("cpu"))


def test_locations_strictly_inside_a_box_are_positive():
    # locations at 4, 12, 20, 28 both ways; the box holds x ∈ {12, 20}, y = 12 only (4 lies on its upper edge)
    targets = assign_targets(objects([([10, 4, 21, 13], 2)]), (4, 4))
    expected = torch.full((4, 4), -1)
    expected[1, 1:3] = 0
    assert targets.object_index[0].equal(expected)
    assert targets.labels[0].equal(torch.where(expected == 0, 2, 0))
    assert targets.care.all()


def test_the_smallest_of_several_boxes_wins_whatever_their_order():
    large, small = ([0, 0, 32, 32], 1), ([8, 8, 24, 24], 2)
    for boxes, owner in (([large, small], 1), ([small, large], 0)):
        targets = assign_targets(objects(boxes), (4, 4))
        assert (targets.object_index[0, 1:3, 1:3] == owner).all()
        assert (targets.labels[0] == 2).sum() == 4
        assert (targets.labels[0] == 1).sum() == 12


def test_offsets_are_distances_to_the_sides_in_strides():
    # eq. 2.4 at location (12, 12) of box (2, 8, 30, 36): l = 10/8, t = 4/8, r = 18/8, b = 24/8; each plus the margin
    boxes = torch.tensor([2.0, 8, 30, 36]).expand(1, 4, 4, 4)
    torch.testing.assert_close(encode_boxes(boxes)[0, :, 1, 1], torch.tensor([1.25, 0.5, 2.25, 3.0]) + 0.5)


def test_a_box_without_a_location_gets_the_nearest_one_and_can_be_predicted_exactly():
    # x ∈ (5, 11) lies between the locations 4 and 12; the centre (8, 20) is as near to either, and falls to column 1
    target = [5.0, 17, 11, 23]
    targets = assign_targets(objects([(target, 3)]), (4, 4))
    assert (targets.object_index[0] >= 0).nonzero().tolist() == [[2, 1]]
    offsets = encode_boxes(targets.boxes)[:, :, 2, 1]
    assert (offsets >= 0).all()  # so a ReLU can say it
    exact = torch.zeros(1, 4, 4, 4)
    exact[:, :, 2, 1] = offsets
    torch.testing.assert_close(decode_boxes(exact)[0, 2, 1], torch.tensor(target))


@given(st.floats(0, 60), st.floats(0, 28), st.floats(0.5, 7.9), st.floats(0.5, 7.9))
def test_every_tiny_box_has_a_location_that_can_predict_it(x, y, width, height):
    target = [x, y, min(x + width, 64), min(y + height, 32)]
    targets = assign_targets(objects([(target, 1)]), (4, 8))
    positive = targets.object_index[0] >= 0
    assert positive.sum() >= 1
    assert (encode_boxes(targets.boxes)[0][:, positive] >= -1e-5).all()


def test_of_two_tiny_boxes_at_one_location_the_smaller_wins_and_beats_the_box_around():
    targets = assign_targets(objects([([0, 0, 32, 32], 1), ([5, 5, 11, 11], 2), ([6, 6, 10, 10], 3)]), (4, 4))
    assert targets.labels[0, 1, 1] == 3
    assert (targets.labels[0] == 1).sum() == 15


def test_dont_care_trains_the_box_and_never_the_class():
    targets = assign_targets(objects([([0, 0, 16, 16], 0), ([4, 4, 28, 28], 1)]), (4, 4))
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[:2, :2] = True
    assert targets.care[0].equal(~inside)
    assert (targets.object_index[0][inside] == 0).all()
    assert (targets.labels[0][inside] == 0).all()

    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    offsets = torch.ones(1, 4, 4, 4, requires_grad=True)
    loss, outcome = detection_loss(logits, offsets, objects([([0, 0, 16, 16], 0), ([4, 4, 28, 28], 1)]))
    (loss.class_loss + loss.box_loss).backward()
    assert (logits.grad[0, :, inside] == 0).all()
    assert (logits.grad[0, :, ~inside] != 0).any()
    assert (offsets.grad[0][:, inside] != 0).any()
    assert (outcome.class_loss[0][inside.flatten()] == 0).all()


def test_loss_by_hand():
    # uniform logits over 1 + 2 classes: cross-entropy log 3 everywhere. One object holds exactly location (1, 1) of a
    # 2×2 map; the prediction there is the 16×16 box around it, the target its right half: IoU ½, hull = union
    logits = torch.zeros(1, 3, 2, 2)
    offsets = torch.full((1, 4, 2, 2), 1.0 + 0.5)
    loss, outcome = detection_loss(logits, offsets, objects([([12 - 0.5, 4, 20, 20], 1)]))
    # target 8.5 wide, 16 high = 136; prediction (4, 4, 20, 20) = 256, contains it: IoU = GIoU = 136/256
    assert loss.class_loss.item() == pytest.approx(math.log(3))
    assert loss.box_loss.item() == pytest.approx(1 - 136 / 256)
    assert outcome.iou[0, 1 * 2 + 1].item() == pytest.approx(136 / 256)
    assert outcome.object_area.tolist() == [[pytest.approx(136)]]


@pytest.mark.parametrize("image", [[], [([0, 0, 32, 32], 0)]], ids=["no positive location", "no care location"])
def test_a_part_with_nothing_to_average_is_zero(image):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    offsets = torch.rand(1, 4, 4, 4, requires_grad=True)
    loss, _ = detection_loss(logits, offsets, objects(image))
    (loss.class_loss + loss.box_loss).backward()
    assert (loss.class_loss if image else loss.box_loss).item() == 0
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(offsets.grad).all()


def test_example_weights_scale_each_image_s_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, requires_grad=True)
    image = [([3, 3, 20, 20], 1)]
    weighted, _ = detection_loss(
        logits, torch.ones(2, 4, 4, 4), objects(image, image), example_weights=torch.tensor([1.0, 3.0])
    )
    plain, _ = detection_loss(logits, torch.ones(2, 4, 4, 4), objects(image, image))
    (by_weight,) = torch.autograd.grad(weighted.class_loss, logits)
    (by_none,) = torch.autograd.grad(plain.class_loss, logits)
    torch.testing.assert_close(by_weight, by_none * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))


coordinates = st.floats(0, 100, width=32)


@given(st.lists(st.tuples(*[coordinates] * 4, *[coordinates] * 4), min_size=1, max_size=20))
def test_paired_iou_agrees_with_torchvision(rows):
    values = torch.tensor(rows, dtype=torch.float32)
    a = torch.cat([torch.minimum(values[:, :2], values[:, 2:4]), torch.maximum(values[:, :2], values[:, 2:4]) + 1], 1)
    b = torch.cat([torch.minimum(values[:, 4:6], values[:, 6:]), torch.maximum(values[:, 4:6], values[:, 6:]) + 1], 1)
    iou, loss = paired_iou(a, b)
    torch.testing.assert_close(iou, box_iou(a, b).diag(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, generalized_box_iou_loss(a, b), atol=1e-5, rtol=1e-5)


def test_backbone_is_resnet34_at_half_width():
    backbone = Backbone(0.5, (3, 4, 6, 3))
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert backbone.channels == [32, 64, 128, 256]
    # 33 convolutions and three 1×1 shortcuts; the 34th layer of the original is its classifier
    assert len([c for c in convolutions if c.kernel_size != (1, 1)]) == 33
    assert len([c for c in convolutions if c.kernel_size == (1, 1)]) == 3
    assert [tuple(m.shape[2:]) for m in backbone(torch.zeros(1, 3, 384, 1280))] == [(48, 160), (24, 80), (12, 40)]


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (1, 1)])
@pytest.mark.parametrize("inputs", [8, 16])
def test_a_projection_is_a_strided_pointwise_convolution(inputs, height, width):
    module = projection(inputs, 24, 2).double()
    kernel = next(layer.weight for layer in module if isinstance(layer, torch.nn.Conv2d))
    images = torch.randn(2, inputs, height, width, dtype=torch.double, requires_grad=True)
    found = module[:-1](images)
    expected = torch.einsum("oi,bihw->bohw", kernel[:, :, 0, 0], images[:, :, ::2, ::2])
    torch.testing.assert_close(found, expected)
    up = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(of, (images, kernel), up) for of in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_narrowest_network_stays_within_its_memory():
    """glibc checks each block that is freed: with AVX-512 a strided 1×1 convolution of 8 channels damages some."""
    step = """
import torch
from isod.detector.thesis.network import Backbone
torch.set_num_threads(1)
network = Backbone(0.125, (1, 1, 1, 1)).to(memory_format=torch.channels_last)
images = torch.randn(2, 3, 192, 256).to(memory_format=torch.channels_last)
for _ in range(10):
    sum(found.square().mean() for found in network(images)).backward()
    blocks = [torch.empty(size) for size in range(1, 2000, 37)]
"""
    checked = os.environ | {"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    subprocess.run([sys.executable, "-c", step], env=checked, check=True, timeout=120)


@pytest.mark.parametrize(("height", "width"), [(48, 160), (144, 256), (100, 90)])
def test_one_map_at_stride_8_for_any_image_size(height, width):
    logits, offsets, quality = Network(4, TINY, seed=0).eval()(torch.zeros(2, 3, height, width, dtype=torch.uint8))
    assert quality is None
    size = (math.ceil(height / 8), math.ceil(width / 8))
    assert logits.shape == (2, 5, *size)
    assert offsets.shape == (2, 4, *size)
    assert (offsets >= 0).all()
    # before training the background has its prior probability, up to the small random head weights
    assert logits.softmax(1)[:, 0].mean().item() == pytest.approx(0.99, abs=0.005)


def test_the_seed_alone_decides_the_initial_weights_and_no_global_state_moves():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Network(2, TINY, seed=7).state_dict()
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    second = Network(2, TINY, seed=7).state_dict()
    other = Network(2, TINY, seed=8).state_dict()
    assert all(first[name].equal(second[name]) for name in first)
    assert not first["head.weight"].equal(other["head.weight"])


def test_detections_by_hand():
    # two locations agree on one object (the weaker is dropped), a third sees another class in the same place (kept:
    # NMS is per class), a fourth is under the floor
    logits = torch.full((2, 3, 4, 4), -20.0)
    logits[:, 0] = 0.0
    logits[0, 1, 1, 1], logits[0, 1, 1, 2], logits[0, 2, 2, 1], logits[0, 1, 3, 3] = 3.0, 2.0, 1.0, -6.0
    boxes = torch.tensor([0.0, 0, 32, 32]).expand(2, 4, 4, 4)
    found = detections(logits, encode_boxes(boxes).clamp(min=0), (30, 32), DetectorConfig())
    assert [len(item["scores"]) for item in found] == [2, 0]
    assert found[0]["labels"].tolist() == [1, 2]
    assert found[0]["scores"].tolist() == [pytest.approx(1 / (1 + math.exp(-3))), pytest.approx(1 / (1 + math.exp(-1)))]
    torch.testing.assert_close(found[0]["boxes"], torch.tensor([[0.0, 0, 32, 30]] * 2))  # clipped to the image


def test_a_large_object_leaves_room_for_a_small_one():
    """It covers 1200 locations of a crop of the thesis's size, each surer of it than the small one's only location."""
    logits = torch.full((1, 2, 48, 160), -20.0)
    logits[:, 0] = 0.0
    logits[0, 1, 10:40, 20:60], logits[0, 1, 5, 100] = 4.0, 1.4
    boxes = torch.tensor([160.0, 80, 480, 320]).repeat(1, 48, 160, 1)
    boxes[0, 5, 100] = torch.tensor([796.0, 36, 812, 52])
    (found,) = detections(logits, encode_boxes(boxes).clamp(min=0), (384, 1280), DetectorConfig())
    torch.testing.assert_close(found["boxes"], torch.tensor([[160.0, 80, 480, 320], [796, 36, 812, 52]]))


def test_what_is_found_in_an_image_does_not_depend_on_the_batch():
    """A batch of the thesis's size, in which few boxes stand out and overlap: below 1000 of them torchvision's NMS sets
    the groups apart by their coordinates."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((128, 3, 48, 160), -20.0)
    logits[:, 0] = 0.0
    offsets = torch.rand(128, 4, 48, 160, generator=generator) * 4 + 1
    for row, column in ((20, 80), (20, 81), (21, 80)):
        logits[:, 1:, row, column] = torch.randn(128, 2, generator=generator)
    together = detections(logits, offsets, (384, 1280), DetectorConfig())
    kept = [len(found["scores"]) for found in together]
    assert min(kept) < max(kept)  # NMS drops some
    for i, found in enumerate(together):
        (alone,) = detections(logits[i : i + 1], offsets[i : i + 1], (384, 1280), DetectorConfig())
        assert all(found[name].equal(alone[name]) for name in found)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_detections_are_sorted_bounded_and_above_the_floor(seed):
    generator = torch.Generator().manual_seed(seed)
    config = DetectorConfig(detections_per_image=7)
    found = detections(
        torch.randn(3, 4, 5, 6, generator=generator), torch.rand(3, 4, 5, 6, generator=generator) * 3, (40, 48), config
    )
    for item in found:
        assert len(item["scores"]) <= 7
        assert (item["scores"][:-1] >= item["scores"][1:]).all()
        assert (item["scores"] >= config.score_floor).all()
        assert ((item["labels"] >= 1) & (item["labels"] <= 3)).all()


def test_mirroring_twice_changes_nothing_and_once_moves_the_boxes():
    before = objects([([10, 2, 30, 9], 1)], [([0, 0, 5, 5], 2)])
    once = before.mirrored(torch.tensor([True, False]), width=64)
    assert once.boxes[:, 0].tolist() == [[34, 2, 54, 9], [0, 0, 5, 5]]
    assert once.mirrored(torch.tensor([True, False]), width=64).boxes.equal(before.boxes)


def test_a_few_steps_learn_one_image():
    model = Network(1, TINY, seed=0)
    image = torch.zeros(2, 3, 48, 64, dtype=torch.uint8)
    image[:, :, 16:32, 24:48] = 255
    truth = objects(*[[([24, 16, 48, 32], 1)]] * 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss, _ = detection_loss(*model(image)[:2], truth)
        optimizer.zero_grad()
        (loss.class_loss + loss.box_loss).backward()
        optimizer.step()
    best = {k: v[:1] for k, v in detections(*model(image)[:2], (48, 64), TINY)[0].items()}
    assert best["scores"].item() > 0.5
    assert box_iou(best["boxes"], torch.tensor([[24.0, 16, 48, 32]])).item() > 0.7
