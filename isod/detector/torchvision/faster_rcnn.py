"""Faster R-CNN as torchvision has it (Ren et al. 2015; Lin et al. 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from isod.config.settings import DetectorConfig, RegionConfig
from isod.detector.boxes import centres_of
from isod.detector.inference import suppress
from isod.detector.locations import UNDECIDED, LossTerms, Targets, mean_loss, outcome_of, sum_by_image, targets_of
from isod.detector.model import DetectionLoss
from isod.detector.regions import region_weights
from isod.detector.torchvision.dense import box_codes, match_by_iou
from isod.detector.torchvision.pyramid import normalised, pyramid, seeded
from isod.errors import InputError
from isod.objects import Objects
from isod.outcome import Outcome

BETA = 1 / 9  # of both stages' smooth L1
IGNORED = -1  # of the two stages' labels: not sampled
UNIT = (0.0, 0.0, 1.0, 1.0)  # the box of padding


class SeededSampler:
    """torchvision's sampler of positive and negative boxes in fixed proportion, with random numbers of its own.

    They depend on the run's seed, on how many training steps came before, and on the image's place in the batch, so
    that a resumed run draws what an uninterrupted one draws.
    """

    def __init__(self, size: int, positive_share: float, *, seed: int, stream: int) -> None:
        self.size = size
        self.positive_share = positive_share
        self.seed, self.stream = seed, stream
        self.step = 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the chosen positive and negative boxes of each image, as masks.

        Args:
            labels: one [L] for each image: ≥ 1 positive, 0 negative, −1 neither.
        """
        positive_masks: list[Tensor] = []
        negative_masks: list[Tensor] = []
        for image, own in enumerate(labels):
            generator = np.random.default_rng([self.seed, self.stream, self.step, image])
            positive, negative = (own >= 1).nonzero().squeeze(1), (own == 0).nonzero().squeeze(1)
            count = min(len(positive), int(self.size * self.positive_share))
            for masks, places, number in (
                (positive_masks, positive, count),
                (negative_masks, negative, min(len(negative), self.size - count)),
            ):
                mask = torch.zeros_like(own, dtype=torch.bool)
                order = torch.from_numpy(generator.permutation(len(places))[:number]).to(places.device)
                mask[places[order]] = True
                masks.append(mask)
        return positive_masks, negative_masks


class FasterRcnn(FasterRCNN):
    """A region proposal network on five maps of stride 4 to 64, and a second stage on its proposals.

    The locations are the proposals that the second stage trains on: ``config.proposals`` of an image, a quarter of them
    positive where there are as many, and the annotated boxes among them; with regions.method ohem all that the first
    stage proposes. The loss is torchvision's: cross-entropy and smooth L1 of the second stage, each summed and divided
    by the batch's number of locations. The first stage's two losses are ``DetectionLoss.extra``. Don't-care objects
    train neither stage.
    """

    provides = frozenset({"logits", "iou"})
    steps: Tensor

    def __init__(self, config: DetectorConfig, num_classes: int, seed: int) -> None:
        sizes = tuple((round(config.anchor_scale * size),) for size in (32, 64, 128, 256, 512))
        width = config.pyramid_channels
        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
        super().__init__(
            pyramid(config, finest=4),
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),  # type: ignore[arg-type]
            box_roi_pool=pool,
            box_head=TwoMLPHead(width * 7 * 7, 4 * width),  # torchvision's 1024 at 256 channels
            box_predictor=FastRCNNPredictor(4 * width, 1 + num_classes),
            box_batch_size_per_image=config.proposals,
        )
        self.config = config
        self.regions = RegionConfig()
        # training steps so far, from which the samplers take their random numbers; saved with the weights
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.samplers = (
            SeededSampler(256, 0.5, seed=seed, stream=3),
            SeededSampler(config.proposals, 0.25, seed=seed, stream=4),
        )
        self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler = self.samplers

    def configure_loss(self, *, regions: RegionConfig) -> None:
        """Set what the training loss reads; see ``isod.detector.model.configure_loss``."""
        if regions.method == "lrm":
            raise InputError("detector faster_rcnn has two stages: regions.method ohem is what lrm is for one stage")
        self.regions = regions

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """Return the feature maps, what the first stage says of each anchor, the anchors, and its proposals.

        Args:
            images: [B, 3, H, W] uint8 RGB.
        Returns:
            maps by name; objectness [B, A]; box codes [B, A, 4]; one [A, 4] of anchors and one [n, 4] of proposals for
            each image, xyxy pixels; and the images' sizes (H, W).
        """
        batch = normalised(images)
        maps = self.backbone(batch.tensors)
        objectness, codes = self.rpn.head(list(maps.values()))
        anchors = self.rpn.anchor_generator(batch, list(maps.values()))
        per_map = [item[0].numel() for item in objectness]
        with torch.autocast(images.device.type, enabled=False):
            objectness, codes = concat_box_prediction_layers(
                [item.float() for item in objectness], [item.float() for item in codes]
            )
            boxes = self.rpn.box_coder.decode(codes.detach(), anchors).view(len(images), -1, 4)
            proposals, _ = self.rpn.filter_proposals(boxes, objectness, batch.image_sizes, per_map)
        count = len(images)
        return maps, objectness.view(count, -1), codes.view(count, -1, 4), anchors, proposals, batch.image_sizes

    def loss(
        self, images: Tensor, objects: Objects, *, example_weights: Tensor | None = None
    ) -> tuple[DetectionLoss, Outcome]:
        """Return torchvision's training loss of a batch, and its outcome by proposal; see DetectorModel."""
        for sampler in self.samplers:
            sampler.step = int(self.steps)
        maps, objectness, codes, anchors, proposals, sizes = self(images)
        weights = torch.ones(len(images), device=images.device) if example_weights is None else example_weights.float()
        with torch.autocast(images.device.type, enabled=False):
            extra = self._first_stage_loss(objectness, codes, torch.stack(anchors), objects, weights)
            boxes, real, targets = self._locations(proposals, objects)
        logits, second_codes = self._second_stage(maps, boxes, real, sizes)
        with torch.autocast(images.device.type, enabled=False):
            loss, outcome = self._second_stage_loss(logits, second_codes, boxes, targets, objects, weights)
        if self.training:
            self.steps += 1
        return DetectionLoss(loss.class_loss, loss.box_loss, extra), outcome

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what enters NMS: scores [B, C, L] and boxes [B, C, L, 4], each class's own; see DetectorModel."""
        maps, _, _, _, proposals, sizes = self.forward(images)  # never compiled: validation batches vary in size
        boxes, real = padded(proposals)
        logits, codes = self._second_stage(maps, boxes, real, sizes)
        with torch.autocast(images.device.type, enabled=False):
            scores = logits.softmax(-1)[..., 1:] * real[..., None]
            every = boxes[..., None, :].expand_as(codes)
            decoded = self.roi_heads.box_coder.decode_single(codes.flatten(0, 2), every.flatten(0, 2)).view_as(codes)
            clipped = clip_boxes_to_image(decoded[..., 1:, :], sizes[0])
            return scores.transpose(1, 2), clipped.transpose(1, 2)

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the detections of each image; see DetectorModel."""
        return suppress(*self.candidates(images), self.config)

    def _first_stage_loss(
        self, objectness: Tensor, codes: Tensor, anchors: Tensor, objects: Objects, weights: Tensor
    ) -> Tensor:
        """[], cross-entropy of objectness and smooth L1 of box codes over the sampled anchors of the batch.

        Args:
            objectness: [B, A]; codes, anchors: [B, A, 4]; weights: [B].
        """
        owners = torch.stack(match_by_iou(self.rpn.proposal_matcher, objects, list(anchors)))
        targets = targets_of(objects, owners, centres_of(anchors))
        positive, negative = self._sampled(self.samplers[0], targets)
        sampled = positive | negative
        label = (targets.object_index >= 0).float()
        entropy = functional.binary_cross_entropy_with_logits(objectness, label, reduction="none")
        distance = functional.smooth_l1_loss(
            codes, box_codes(self.rpn.box_coder, targets, anchors), beta=BETA, reduction="none"
        ).sum(-1)
        parts = sum_by_image(entropy, sampled, None) + sum_by_image(distance, positive, None)
        return (parts * weights).sum() / sampled.sum().clamp(min=1)

    def _sampled(self, sampler: SeededSampler, targets: Targets) -> tuple[Tensor, Tensor]:
        """[B, L] bool each, the positive and the negative boxes that a stage trains on."""
        labels = torch.where(targets.care, (targets.object_index >= 0).long(), IGNORED)
        positive, negative = sampler(list(labels))
        return torch.stack(positive), torch.stack(negative)

    def _locations(self, proposals: list[Tensor], objects: Objects) -> tuple[Tensor, Tensor, Targets]:
        """The boxes [B, L, 4] that the second stage trains on, which of them are not padding [B, L], and their targets.

        Among the candidates are the annotated boxes, as torchvision has it.
        """
        candidates = []
        for image, own in enumerate(proposals):
            annotated, _, dont_care = objects.of(image)
            candidates.append(torch.cat([own, annotated[~dont_care]]))
        boxes, real = padded(candidates)
        owners, _ = padded(match_by_iou(self.roi_heads.proposal_matcher, objects, candidates), fill=UNDECIDED)
        targets = targets_of(objects, owners, centres_of(boxes))
        chosen = targets.care
        if self.regions.method != "ohem":
            positive, negative = self._sampled(self.samplers[1], targets)
            chosen = positive | negative
        counts = chosen.sum(1)
        places = max(1, int(counts.max()))
        pick = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :places]
        real = torch.arange(places, device=counts.device) < counts[:, None]
        boxes = torch.where(real[..., None], boxes.gather(1, pick[..., None].expand(-1, -1, 4)), boxes.new_tensor(UNIT))
        owners = torch.where(real, owners.gather(1, pick), UNDECIDED)
        return boxes, real, targets_of(objects, owners, centres_of(boxes))

    def _second_stage(
        self, maps: dict[str, Tensor], boxes: Tensor, real: Tensor, sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, L, 1+C] and box codes [B, L, 1+C, 4] of the boxes [B, L, 4]; 0 at padding."""
        regions = [own[kept] for own, kept in zip(boxes, real, strict=True)]
        heads = self.roi_heads
        pooled = heads.box_head(heads.box_roi_pool(maps, regions, sizes))
        flat_logits, flat_codes = heads.box_predictor(pooled)
        logits = flat_logits.new_zeros((*real.shape, flat_logits.shape[1]), dtype=torch.float32)
        codes = flat_codes.new_zeros((*real.shape, flat_codes.shape[1]), dtype=torch.float32)
        logits[real], codes[real] = flat_logits.float(), flat_codes.float()
        return logits, codes.unflatten(-1, (-1, 4))

    def _second_stage_loss(
        self, logits: Tensor, codes: Tensor, boxes: Tensor, targets: Targets, objects: Objects, weights: Tensor
    ) -> tuple[DetectionLoss, Outcome]:
        """The second stage's loss and outcome; arguments as ``_second_stage`` and ``_locations`` return them."""
        coder = self.roi_heads.box_coder
        entropy = functional.cross_entropy(logits.transpose(1, 2), targets.labels, reduction="none")
        own = codes.gather(2, targets.labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)  # those of the class
        box_loss = functional.smooth_l1_loss(own, box_codes(coder, targets, boxes), beta=BETA, reduction="none").sum(-1)
        predicted = coder.decode_single(own.detach().flatten(0, 1), boxes.flatten(0, 1)).view_as(boxes)
        outcome = outcome_of(
            objects,
            targets,
            logits=logits,
            activation="softmax",
            class_loss=entropy,
            box_loss=box_loss,
            predicted=predicted,
        )
        loss = mean_loss(
            LossTerms(entropy, box_loss),
            targets,
            over="locations",
            example_weights=weights,
            region_weights=region_weights(self.regions, outcome, outcome.class_loss, boxes),
            sum_counts=None,
        )
        return loss, outcome


def padded(items: list[Tensor], fill: float | None = None) -> tuple[Tensor, Tensor]:
    """Stack one [n, …] for each image to [B, L, …], and say which places are not padding, [B, L] bool.

    Args:
        fill: what padding holds; by default a box of one pixel.
    """
    counts = torch.tensor([len(item) for item in items], device=items[0].device)
    real = torch.arange(max(1, int(counts.max())), device=counts.device) < counts[:, None]
    values = items[0].new_tensor(UNIT if fill is None else fill).expand(*real.shape, *items[0].shape[1:]).clone()
    values[real] = torch.cat(items)
    return values, real


def build(config: DetectorConfig, num_classes: int, seed: int) -> FasterRcnn:
    """Build Faster R-CNN; a row of DETECTORS."""
    with seeded(seed):
        return FasterRcnn(config, num_classes, seed)
