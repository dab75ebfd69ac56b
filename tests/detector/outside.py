"""What somebody else's package might provide as detectors: one of one cell per image, and one with a loss per image."""

import torch
from torch import nn
from torch.nn import functional

from isod.detector.model import DetectionLoss
from isod.outcome import Outcome


class TinyDetector(nn.Module):
    """Says which class an image shows most of, and a box of the size of the image."""

    provides = frozenset({"logits"})

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(3 * 4 * 4, 1 + num_classes)

    def forward(self, images):
        return self.classify(functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1))

    def loss(self, images, objects, *, example_weights=None):
        logits = self(images).float()
        known = objects.valid & ~objects.dont_care
        labels = torch.where(known[:, 0], objects.labels[:, 0], 0)  # of the first object, or background
        losses = functional.cross_entropy(logits, labels, reduction="none")
        weights = torch.ones_like(losses) if example_weights is None else example_weights.float()
        outcome = Outcome(
            logits=logits.detach()[:, :, None],
            labels=labels[:, None],
            care=torch.ones_like(labels[:, None], dtype=torch.bool),
            object_index=torch.where(labels > 0, 0, -1)[:, None],
            class_loss=losses.detach()[:, None],
            box_loss=torch.zeros_like(losses)[:, None],
            object_area=objects.area(),
            object_labels=objects.labels,
        )
        return DetectionLoss((losses * weights).mean(), losses.new_zeros(())), outcome

    def detect(self, images):
        height, width = images.shape[-2:]
        box = torch.tensor([[0.0, 0.0, width, height]])
        scores, labels = self(images).softmax(1)[:, 1:].max(1)
        return [
            {"boxes": box, "scores": score[None].float().cpu(), "labels": label[None].cpu() + 1}
            for score, label in zip(scores, labels, strict=True)
        ]


def build(config, num_classes, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyDetector(num_classes)


class WithDropout(TinyDetector):
    """Draws from torch's random numbers in its forward pass."""

    def forward(self, images):
        return functional.dropout(super().forward(images), 0.5, self.training)


def build_with_dropout(config, num_classes, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WithDropout(num_classes)


def build_nothing(config, num_classes, seed):
    return 1 / 0


class OneLossPerImage(TinyDetector):
    """Keeps to itself where its loss comes from."""

    provides = frozenset()

    def loss(self, images, objects, *, example_weights=None):
        loss, outcome = super().loss(images, objects, example_weights=example_weights)
        return loss, Outcome.of_images(outcome.class_loss[:, 0])


def build_per_image(config, num_classes, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OneLossPerImage(num_classes)
