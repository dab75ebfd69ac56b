"""OHEM, loss rank mining and prime sample attention, by hand."""

from __future__ import annotations

import pytest
import torch

from isod.config.settings import DetectorConfig, RegionConfig, TrainingConfig
from isod.detector.model import build_detector, configure_loss
from isod.detector.regions import hardest, hierarchical_rank, prime_weights
from isod.outcome import Outcome
from tests.detector.test_torchvision import built, images, objects


def test_the_hardest_of_each_image_train_and_one_region_once():
    """Boxes 0 and 1 overlap by 90/110 = 0.82 > 0.7: the harder one stands for both. Box 3 has no loss to speak of."""
    boxes = torch.tensor([[[0.0, 0, 100, 10], [10, 0, 110, 10], [200, 0, 210, 10], [300, 0, 310, 10]]] * 2)
    losses = torch.tensor([[3.0, 4, 2, 9], [1, 0, 5, 9]])
    counted = torch.tensor([[True, True, True, False]] * 2)
    assert hardest(losses, boxes, counted, 1).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert hardest(losses, boxes, counted, 2).tolist() == [[0, 1, 1, 0], [1, 0, 1, 0]]
    assert hardest(losses, boxes, counted, 9).tolist() == [[0, 1, 1, 0], [1, 0, 1, 0]]


def test_the_best_location_of_every_object_comes_first():
    # object 7: IoU 0.9, 0.8, 0.3; object 4: 0.6, 0.5. First places 0.9, 0.6; then 0.8, 0.5; then 0.3
    iou = torch.tensor([0.3, 0.6, 0.9, 0.5, 0.8])
    owners = torch.tensor([7, 4, 7, 4, 7])
    assert hierarchical_rank(iou, owners).tolist() == [4, 1, 0, 3, 2]


def outcome_by_hand() -> Outcome:
    """One image, classes 1 and 2. Class 1: object 0 with IoU 0.9 and 0.4; class 2: object 1 with 0.7. Then background,
    and a location of unknown class."""
    return Outcome(
        labels=torch.tensor([[1, 1, 2, 0, 0]]),
        care=torch.tensor([[True, True, True, True, False]]),
        object_index=torch.tensor([[0, 0, 1, -1, 2]]),
        class_loss=torch.tensor([[1.0, 2.0, 3.0, 0.5, 0.0]]),
        box_loss=torch.zeros(1, 5),
        iou=torch.tensor([[0.9, 0.4, 0.7, 0.0, 0.8]]),
        object_area=torch.ones(1, 3),
        object_labels=torch.tensor([[1, 2, 0]]),
    )


def test_prime_samples_weigh_more_and_the_loss_stays_the_same():
    """n = 2. Ranks 0, 1 of class 1 and 0 of class 2: u = 1, 1/2, 1. With γ = 2, β = 0: w = 1, 1/4, 1.
    Σ ℓ = 6, Σ wℓ = 1 + 0.5 + 3 = 4.5: w' = 4/3, 1/3, 4/3."""
    weights = prime_weights(outcome_by_hand(), outcome_by_hand().class_loss, bias=0.0, power=2.0)
    torch.testing.assert_close(weights, torch.tensor([[4 / 3, 1 / 3, 4 / 3, 1, 1]]))
    # β = 0.5, γ = 1: w = 1, 3/4, 1; Σ wℓ = 5.5
    weights = prime_weights(outcome_by_hand(), outcome_by_hand().class_loss, bias=0.5, power=1.0)
    torch.testing.assert_close(weights, torch.tensor([[6 / 5.5, 4.5 / 5.5, 6 / 5.5, 1, 1]]))


@pytest.mark.parametrize("name", ["thesis", "fcos", "retinanet", "ssdlite", "faster_rcnn"])
def test_a_region_method_changes_the_gradient_and_not_the_outcome(name):
    tiny = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))
    model = (build_detector(tiny, 3, seed=1) if name == "thesis" else built(name)).eval()
    parameter = next(model.parameters())

    def step(method: str) -> tuple[torch.Tensor, Outcome, float]:
        configure_loss(model, TrainingConfig(regions=RegionConfig(method=method, kept=5)))
        loss, outcome = model.loss(images(), objects())
        (gradient,) = torch.autograd.grad(loss.class_loss, parameter)
        return gradient, outcome, loss.class_loss.item()

    plain, outcome, class_loss = step("all")
    for method in ("ohem" if name == "faster_rcnn" else "lrm", "pisa"):
        gradient, same, changed = step(method)
        assert torch.isfinite(gradient).all()
        assert (gradient - plain).abs().max() > 0.01 * plain.abs().max()
        if method == "ohem":  # whose locations are all proposals
            assert same.class_loss.shape[1] > outcome.class_loss.shape[1]
        else:
            assert same.class_loss.equal(outcome.class_loss)
        if method == "pisa" and name != "retinanet":  # which divides each image by its own number
            assert changed == pytest.approx(class_loss, rel=1e-4)


def test_the_loss_of_the_hardest_locations_by_hand():
    """Of the thesis's detector: the mean over the five hardest locations of each image; no two predict one region."""
    model = build_detector(DetectorConfig(width=0.125, blocks=(1, 1, 1, 1)), 3, seed=1).eval()
    with torch.no_grad():
        model.head.bias[-4:] = 0.6  # boxes of 1.6 pixels: none overlaps another
        model.head.weight[-4:] = 0
    configure_loss(model, TrainingConfig(regions=RegionConfig(method="lrm", kept=5)))
    loss, outcome = model.loss(images(), objects())
    order = (outcome.class_loss + outcome.box_loss).argsort(dim=1, descending=True)[:, :5]
    assert loss.class_loss.item() == pytest.approx(outcome.class_loss.gather(1, order).mean().item(), rel=1e-5)
    positive = outcome.object_index.gather(1, order) >= 0
    expected = outcome.box_loss.gather(1, order)[positive].mean().item()
    assert loss.box_loss.item() == pytest.approx(expected, rel=1e-5)
