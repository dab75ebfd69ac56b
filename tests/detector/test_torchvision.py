"""torchvision's detectors under isod's contract, held against torchvision's own training code on the same weights."""

from __future__ import annotations

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision.models.detection as library
from torchvision.models.detection import fcos as library_fcos
from torchvision.models.detection import retinanet as library_retinanet
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import sigmoid_focal_loss

from isod.config.settings import DetectorConfig, RegionConfig, TrainingConfig
from isod.detector.model import build_detector, configure_loss
from isod.errors import InputError
from isod.objects import Objects
from isod.sampling import sample_scores
from isod.sampling.samplers import SAMPLERS

NAMES = ("fcos", "retinanet", "ssdlite", "faster_rcnn")
SIGMOID = ("fcos", "retinanet")  # one class less than the library counts: it has none for the background
LIBRARY = {"fcos": library.FCOS, "retinanet": library.RetinaNet, "ssdlite": SSD, "faster_rcnn": library.FasterRCNN}
SIZE = (90, 150)  # (H, W), no multiple of 32
BOXES = [
    np.array([[10, 10, 60, 50], [100, 20, 140, 85], [20, 15, 34, 30]], np.float32),
    np.array([[5, 5, 145, 88]], np.float32),
    np.zeros((0, 4), np.float32),
]
LABELS = [np.array([1, 3, 2]), np.array([2]), np.array([], np.int64)]


def config(name: str, **changes) -> DetectorConfig:
    return DetectorConfig(name=name, pyramid_channels=64 if name == "fcos" else 32, proposals=40, **changes)


def built(name: str, **changes):
    return build_detector(config(name, **changes), 3, seed=1)


def images(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def objects(dont_care: list[np.ndarray] | None = None) -> Objects:
    return Objects.from_lists(BOXES, LABELS, dont_care).to(torch.device("cpu"))


def library_losses(model, name: str) -> dict[str, torch.Tensor]:
    """What torchvision's own ``forward`` says in training, on the same weights, images and boxes."""
    mean, std = getattr(model, "mean", (0.485, 0.456, 0.406)), getattr(model, "std", (0.229, 0.224, 0.225))
    model.transform = GeneralizedRCNNTransform(SIZE[0], SIZE[1], list(mean), list(std))  # of this size: no resize
    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels) - (1 if name in SIGMOID else 0)}
        for boxes, labels in zip(BOXES, LABELS, strict=True)
    ]
    return LIBRARY[name].forward(model, list(images().float() / 255), targets)


@pytest.fixture(autouse=True)
def without_noise():
    """Nothing here depends on it, and a test that does would fail by turns."""
    torch.manual_seed(0)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_large"])
@pytest.mark.parametrize("name", NAMES)
def test_the_training_loss_is_torchvisions(name, backbone):
    model = built(name, backbone=backbone).train()
    loss, _ = model.loss(images(), objects())
    if name == "faster_rcnn":
        model.steps.zero_()  # the samplers' random numbers of the same step
        assert model.samplers[0].step == model.samplers[1].step == 0
    expected = library_losses(model, name)
    if name == "faster_rcnn":
        assert loss.class_loss.item() == pytest.approx(expected["loss_classifier"].item(), rel=1e-5)
        assert loss.box_loss.item() == pytest.approx(expected["loss_box_reg"].item(), rel=1e-5)
        first_stage = expected["loss_objectness"] + expected["loss_rpn_box_reg"]
        assert loss.extra.item() == pytest.approx(first_stage.item(), rel=1e-5)
        return
    assert loss.class_loss.item() == pytest.approx(expected["classification"].item(), rel=1e-5)
    assert loss.box_loss.item() == pytest.approx(expected["bbox_regression"].item(), rel=1e-5)
    if name == "fcos":
        assert loss.extra.item() == pytest.approx(expected["bbox_ctrness"].item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_outcome_sums_to_torchvisions_loss_before_its_extra_terms(name):
    """Focal weights off; SSD's choice of negatives off; every proposal a location: −log a is plain cross-entropy."""
    model = built(name).train()
    plain = partial(sigmoid_focal_loss, alpha=-1, gamma=0)
    with (
        mock.patch.object(library_fcos, "sigmoid_focal_loss", plain),
        mock.patch.object(library_retinanet, "sigmoid_focal_loss", plain),
        mock.patch.object(model, "neg_to_pos_ratio", 10**9, create=True),
    ):
        expected = library_losses(model, name)
        _, outcome = model.loss(images(), objects())
    class_loss, box_loss = outcome.class_loss.sum(1), outcome.box_loss.sum(1)
    positives = (outcome.object_index >= 0).sum(1)
    if name == "faster_rcnn":
        class_key, box_key, divisor = "loss_classifier", "loss_box_reg", outcome.care.sum()
    else:
        class_key, box_key, divisor = "classification", "bbox_regression", positives.sum()
    if name == "retinanet":
        divisor = positives.clamp(min=1) * len(positives)
    if name == "ssdlite":
        # an image without objects has no negatives there, 0 · any ratio being 0; and where there are more negatives to
        # choose than boxes, torchvision counts the positive ones among them again
        again = torch.where(outcome.object_index >= 0, outcome.class_loss, 0.0).sum(1)
        class_loss = (class_loss + again)[positives > 0]
    assert (class_loss / divisor).sum().item() == pytest.approx(expected[class_key].item(), rel=1e-5)
    assert (box_loss / divisor).sum().item() == pytest.approx(expected[box_key].item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_detections_are_torchvisions(name):
    model = built(name, score_floor=0.005, nms_threshold=0.6).eval()
    with torch.inference_mode():
        ours = model.detect(images())
        model.topk_candidates = 10**6
        model.score_thresh, model.nms_thresh, model.detections_per_img = 0.005, 0.6, 300
        if name == "faster_rcnn":
            heads = model.roi_heads
            heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.005, 0.6, 300
        model.transform = GeneralizedRCNNTransform(
            SIZE[0], SIZE[1], list(getattr(model, "mean", (0.485, 0.456, 0.406))),
            list(getattr(model, "std", (0.229, 0.224, 0.225))),
        )  # fmt: skip
        theirs = LIBRARY[name].forward(model, list(images().float() / 255))
    shift = 1 if name in SIGMOID else 0
    for own, other in zip(ours, theirs[1] if isinstance(theirs, tuple) else theirs, strict=True):
        assert len(own["scores"]) == len(other["scores"]) > 0
        torch.testing.assert_close(own["scores"], other["scores"], atol=1e-5, rtol=1e-5)
        apart = (own["boxes"][:, None] - other["boxes"]).abs().amax(-1)
        alike = (apart < 0.1) & (own["labels"][:, None] == other["labels"] + shift)
        assert alike.any(1).float().mean() > 0.97  # scores that are equal but for rounding may change places in NMS


@pytest.mark.parametrize("name", ["fcos", "retinanet", "ssdlite"])
def test_dont_care_objects_never_train_the_class(name):
    """The class logits get no gradient where a don't-care object owns the anchor, nor at background inside of it."""
    model = built(name).train()
    logits = []
    model.head.register_forward_hook(lambda *call: call[2]["cls_logits"].retain_grad() or logits.append(call[2]))
    marks = [np.array([True, False, False]), np.array([True]), np.array([], bool)]
    loss, outcome = model.loss(images(), objects(marks))
    loss.class_loss.backward()
    trained = logits[0]["cls_logits"].grad.abs().sum(-1) > 0
    owned_by_it = torch.stack([outcome.object_index[0] == 0, outcome.object_index[1] == 0])
    assert owned_by_it.any(1).all()
    assert not trained[:2][owned_by_it].any()
    _, anchors, _ = model(images())
    x, y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(-1)
    x1, y1, x2, y2 = BOXES[1][0]
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    assert not trained[1][inside].any()
    assert name == "ssdlite" or trained[1][~inside & ~owned_by_it[1]].all()  # SSD chooses none without a positive one


def test_proposals_leave_out_what_nobody_cares_about():
    model = built("faster_rcnn").train()
    marks = [np.array([True, False, False]), np.array([True]), np.array([], bool)]
    _, outcome = model.loss(images(), objects(marks))
    assert set(outcome.object_index[0].tolist()) <= {-1, 1, 2}
    assert set(outcome.object_index[1].tolist()) == {-1}
    assert outcome.care[0].any()


@pytest.mark.parametrize("name", NAMES)
def test_example_weights_multiply_an_images_share(name):
    """Twice the loss of every image is twice the loss; an image of weight 0 adds no gradient of its own."""
    model = built(name).eval()  # batch statistics would tie the images together
    once, _ = model.loss(images(), objects())
    twice, _ = model.loss(images(), objects(), example_weights=torch.full((3,), 2.0))
    torch.testing.assert_close(twice.class_loss, 2 * once.class_loss)
    torch.testing.assert_close(twice.box_loss, 2 * once.box_loss)
    parts = [model.loss(images(), objects(), example_weights=torch.eye(3)[i])[0] for i in range(3)]
    torch.testing.assert_close(sum(part.class_loss for part in parts), once.class_loss)
    if once.extra is not None:
        torch.testing.assert_close(twice.extra, 2 * once.extra)
        torch.testing.assert_close(sum(part.extra for part in parts), once.extra)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_scores_its_outcomes(name):
    model = built(name).train()
    _, outcome = model.loss(images(), objects())
    for sampler in SAMPLERS.values():
        assert torch.isfinite(sample_scores(outcome, sampler)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights_and_nothing_else_is_drawn(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = built(name), built(name), build_detector(config(name), 3, seed=2)
    one.train().loss(images(), objects())
    assert torch.get_rng_state().equal(before)
    assert all(a.equal(b) for a, b in zip(built(name).parameters(), same.parameters(), strict=True))
    assert not all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_all_weights_can_train(name):
    assert all(parameter.requires_grad for parameter in built(name).parameters())


def test_proposals_are_drawn_anew_each_step_and_alike_after_a_resume():
    model = built("faster_rcnn").train()
    boxes = []
    for _ in range(3):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        _, outcome = model.loss(images(), objects())
        boxes.append(outcome.class_loss)
    again = built("faster_rcnn").train()
    again.load_state_dict(state)
    _, outcome = again.loss(images(), objects())
    assert outcome.class_loss.equal(boxes[2])
    assert not boxes[1].equal(boxes[2])
    model.eval()
    for _ in range(2):  # scoring without training draws nothing of the training's
        model.loss(images(), objects())
    assert int(model.steps) == 3


@pytest.mark.parametrize(
    ("name", "regions", "message"),
    [
        ("fcos", "ohem", "has one stage and no proposals"),
        ("ssdlite", "ohem", "has one stage and no proposals"),
        ("faster_rcnn", "lrm", "has two stages"),
    ],
)
def test_a_region_method_of_the_other_kind_of_detector_is_refused(name, regions, message):
    with pytest.raises(InputError, match=message):
        configure_loss(built(name), TrainingConfig(regions=RegionConfig(method=regions)))


def test_what_a_detector_does_not_take_is_refused():
    with pytest.raises(InputError, match="workers_per_trial"):
        configure_loss(built("faster_rcnn"), TrainingConfig(), sum_counts=lambda counts: counts)
    with pytest.raises(InputError, match="loss_normalisation"):
        configure_loss(built("fcos"), TrainingConfig(loss_normalisation="object"))


def test_fcos_needs_two_channels_in_each_group_that_it_normalises():
    narrow = DetectorConfig(name="fcos", pyramid_channels=32)
    with pytest.raises(InputError, match="pyramid_channels must be ≥ 64, got 32"):
        build_detector(narrow, 3, seed=0)
    model = built("fcos").train()  # a crop whose coarsest map has one cell, alone in its batch
    one = Objects.from_lists(BOXES[:1], LABELS[:1]).to(torch.device("cpu"))
    terms, _ = model.loss(images(1)[:, :, :64, :64], one)
    assert torch.isfinite(terms.class_loss)
