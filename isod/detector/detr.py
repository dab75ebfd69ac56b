"""RT-DETR v2 of the library transformers, built from its configuration, with random weights and without a download.

Zhao et al. 2024, "DETRs Beat YOLOs on Real-time Object Detection"; Lv et al. 2024, "RT-DETRv2". A location is a query
of the last decoder layer. What differs from the library: the batch normalisation of the backbone is trained, the first
weights suit a start without trained ones (``_initialise``), and the loss is computed by query, so that it can be
weighted by image and left out where the class is unknown. The tests hold it against the library's own loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, clip_boxes_to_image
from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss
from transformers.models.rt_detr_v2 import modeling_rt_detr_v2

from isod.config.settings import DetectorConfig
from isod.detector.boxes import paired_iou
from isod.detector.locations import sigmoid_terms, targets_of
from isod.detector.model import DetectionLoss
from isod.detector.thesis.network import IMAGE_MEAN, IMAGE_STD
from isod.errors import InputError
from isod.objects import Objects
from isod.outcome import Outcome

STRIDE = 32  # pixels between the locations of the coarsest map; images are padded to a multiple of it
QUERIES = 100  # or as many as an image has locations: a crop of 64×64 pixels has 84
DENOISING_QUERIES = 100  # pairs of them, drawn around the objects of each image, in training
HEADS = 8  # of each attention
PRIOR = 0.01  # probability of every class before training, RT-DETR's own

Pairs = Sequence[tuple[Tensor, Tensor]]  # of each image: queries [n], and the targets [n] that they are matched with


class Size(NamedTuple):
    """A ResNet and the decoder that RT-DETR v2 puts on it: its sizes S, M and L."""

    layer_type: str
    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    decoder_layers: int
    expansion: float  # of the blocks that join the feature maps


BACKBONES = {
    "resnet18": Size("basic", (2, 2, 2, 2), (64, 128, 256, 512), 3, 0.5),
    "resnet34": Size("basic", (3, 4, 6, 3), (64, 128, 256, 512), 4, 0.5),
    "resnet50": Size("bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048), 6, 1.0),
}


def configuration(config: DetectorConfig, num_classes: int) -> RTDetrV2Config:
    """Return the library's settings for the network that isod's settings describe.

    Raises:
        InputError: a backbone that is no ResNet.
    """
    if config.backbone not in BACKBONES:
        raise InputError(
            f"detector 'detr' has no backbone {config.backbone!r}: set it to one of {', '.join(BACKBONES)}"
        )
    channels = config.pyramid_channels  # a multiple of 32, and so of HEADS
    size = BACKBONES[config.backbone]
    backbone = RTDetrResNetConfig(  # type: ignore[call-arg]
        layer_type=size.layer_type, depths=list(size.depths), hidden_sizes=list(size.channels), out_indices=[2, 3, 4]
    )
    return RTDetrV2Config(  # type: ignore[call-arg]
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        num_labels=num_classes,
        num_queries=QUERIES,
        num_denoising=DENOISING_QUERIES,
        initializer_bias_prior_prob=PRIOR,
        encoder_in_channels=list(size.channels[1:]),
        encoder_hidden_dim=channels,
        encoder_ffn_dim=4 * channels,
        encoder_attention_heads=HEADS,
        hidden_expansion=size.expansion,
        d_model=channels,
        decoder_in_channels=[channels] * 3,
        decoder_ffn_dim=4 * channels,
        decoder_attention_heads=HEADS,
        decoder_layers=size.decoder_layers,
    )


def _initialise(network: nn.Module) -> None:
    """Draw first weights that a training without pretrained ones can start from.

    The library draws most of them, the scales of the batch normalisation too, from N(0, 0.01²), as its users load
    trained ones: what goes in then hardly comes out. As in the code of RT-DETR's authors, convolutions and
    normalisation start as torch's own do, boxes as the anchors. Every linear layer starts as Xavier's; theirs do so in
    part. Backbone, deformable attention and class scores stay as the library draws them.
    """
    for name, module in network.named_modules():
        if any(part in name for part in ("backbone.", "encoder_attn.", "class_embed", "enc_score_head")):
            continue
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for head in (network.enc_bbox_head, *network.decoder.bbox_embed):  # type: ignore[union-attr, misc]
        nn.init.zeros_(head.layers[-1].weight)


class QueryLosses(NamedTuple):
    """What the queries of one layer learn; each [B, Q]."""

    labels: Tensor  # int64, 1…C, 0 for background
    care: Tensor  # bool, False for a query without object whose box has its centre in a don't-care box
    class_loss: Tensor  # varifocal; 0 where care is False
    log_loss: Tensor  # −log a, the binary cross-entropy over all classes, which the sample scores read; no gradient
    box_loss: Tensor  # weighted L1 and GIoU loss; 0 without object
    iou: Tensor  # of predicted and target box; 0 without object

    def sums(self, weights: Tensor) -> Tensor:
        """Return the class and the box loss [2] of all queries, with so much weight [B] on each image."""
        return torch.stack([(self.class_loss.sum(1) * weights).sum(), (self.box_loss.sum(1) * weights).sum()])


def query_losses(
    logits: Tensor, boxes: Tensor, owner: Tensor, objects: Objects, scale: Tensor, settings: RTDetrV2Config
) -> QueryLosses:
    """Return the terms that the library's loss is the sum of.

    Class: the varifocal loss Σ_c w_c · BCE(σ(z_c), t_c) (Zhang et al. 2021, eq. 2). At the object's class t is the IoU
    of predicted and target box and w = t; at every other one t = 0 and w = α·σ(z)^γ. Box: λ_L1·|b − b'|₁ +
    λ_GIoU·(1 − GIoU), b in shares of the padded image.

    Args:
        logits: [B, Q, C] float32; boxes: [B, Q, 4] float32, centre and size as shares of the padded image.
        owner: [B, Q] int64, which of the image's objects each query is matched with, −1 for none.
        scale: [4], width and height of the padded image twice, pixels.
    """
    matched, pixels = owner >= 0, boxes * scale
    targets = targets_of(objects, owner, pixels[..., :2].detach())
    iou, giou_loss = paired_iou(box_convert(pixels, "cxcywh", "xyxy"), targets.boxes)
    distance = (boxes - box_convert(targets.boxes, "xyxy", "cxcywh") / scale).abs().sum(-1)
    box_loss = settings.weight_loss_bbox * distance + settings.weight_loss_giou * giou_loss
    iou, box_loss = torch.where(matched, iou.detach(), 0.0), torch.where(matched, box_loss, 0.0)

    positive, plain = sigmoid_terms(logits.detach(), targets.labels)  # [B, Q, C]
    target = positive * iou[..., None]
    weight = settings.focal_loss_alpha * logits.detach().sigmoid() ** settings.focal_loss_gamma * (1 - positive)
    focal = functional.binary_cross_entropy_with_logits(logits, target, weight + target, reduction="none").sum(-1)
    care = targets.care
    class_loss, log_loss = settings.weight_loss_vfl * focal * care, plain.sum(-1) * care
    return QueryLosses(targets.labels, care, class_loss, log_loss, box_loss, iou)


class Detr(nn.Module):
    """RT-DETR v2 as the training loop uses it; images of any size, see DetectorModel.

    Args:
        config: of which ``backbone``, ``pyramid_channels``, ``score_floor`` and ``detections_per_image`` count.
        num_classes: C.
        seed: of the initial weights and of the denoising queries; torch's global generator is left as it is.
    Raises:
        InputError: see ``configuration``.
    """

    provides = frozenset({"logits", "iou"})
    mean: Tensor
    std: Tensor
    steps: Tensor

    def __init__(self, config: DetectorConfig, num_classes: int, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.settings = configuration(config, num_classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = RTDetrV2ForObjectDetection(self.settings).model
            _initialise(self.network)
        self.matcher = RTDetrHungarianMatcher(self.settings)
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGE_STD).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # of training: a resumed run draws the same

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps that the queries look at, at strides 8, 16 and 32, each [B, pyramid_channels, …].

        This is the part of the network whose shapes do not depend on the objects of a batch.

        Args:
            images: [B, 3, H, W] uint8 (or float in 0…255), RGB.
        """
        height, width = images.shape[-2:]
        pixels = functional.pad((images - self.mean) / self.std, (0, -width % STRIDE, 0, -height % STRIDE))
        maps = self.network.backbone.model(pixels).feature_maps
        projected = [project(features) for project, features in zip(self.network.encoder_input_proj, maps, strict=True)]
        return list(self.network.encoder(projected).last_hidden_state)

    def _decode(self, maps: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Return what the library's model says of the queries. In float32, as bfloat16 would move boxes by a pixel."""
        self.settings.num_queries = min(QUERIES, sum(item.shape[-2] * item.shape[-1] for item in maps))
        maps = [item.float() for item in maps]
        return self.network(None, inputs_embeds=maps[0], encoder_outputs=(maps,), labels=targets)

    def loss(
        self, images: Tensor, objects: Objects, *, example_weights: Tensor | None = None
    ) -> tuple[DetectionLoss, Outcome]:
        """Return the library's loss of a batch, and its outcome by query; see DetectorModel.

        ``class_loss`` and ``box_loss`` are those of the last decoder layer, ``extra`` those of the other layers, of the
        encoder's proposals and, in training, of the denoising queries. No query is matched with a don't-care object,
        and one without object whose box has its centre in such an object learns no class.
        """
        maps = self(images)
        with torch.autocast(images.device.type, enabled=False):
            return self._loss(maps, objects, example_weights)

    def _loss(
        self, maps: Sequence[Tensor], objects: Objects, example_weights: Tensor | None
    ) -> tuple[DetectionLoss, Outcome]:
        scale = _scale(maps)
        boxes = box_convert(objects.boxes, "xyxy", "cxcywh") / scale
        places = [row.nonzero().squeeze(1) for row in (objects.valid & ~objects.dont_care).cpu()]  # of known objects
        targets = [
            {"class_labels": objects.labels[image, place] - 1, "boxes": boxes[image, place]}
            for image, place in enumerate(places)
        ]
        with torch.random.fork_rng(devices=[boxes.device] if boxes.is_cuda else []):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, int(self.steps)]).generate_state(1)[0]))
            output = self._decode(maps, targets)  # draws denoising queries
        if self.training:
            self.steps += 1

        def layer(logits: Tensor, boxes: Tensor, pairs: Pairs | None = None) -> tuple[Tensor, QueryLosses]:
            """Owner [B, Q] and losses of the queries, matched with the objects unless the pairs are given."""
            if pairs is None:  # a number that is not finite stays in the loss, where the training loop finds it
                pairs = self.matcher({"logits": logits, "pred_boxes": boxes.nan_to_num()}, targets)
            owner = torch.full(logits.shape[:2], -1)
            for row, place, (query, target) in zip(owner, places, pairs, strict=True):
                row[query.cpu()] = place[target.cpu()]
            owner = owner.to(logits.device)
            return owner, query_losses(logits, boxes, owner, objects, scale, self.settings)

        logits, predicted = output.intermediate_logits, output.intermediate_reference_points  # [B, layers, Q, …]
        denoising = output.denoising_meta_values
        noisy = denoising["dn_num_split"][0] if denoising else 0  # they come first
        weights = boxes.new_ones(len(places)) if example_weights is None else example_weights.float()
        weights = weights / max(1, sum(len(place) for place in places))
        owner, last = layer(logits[:, -1, noisy:], predicted[:, -1, noisy:])
        extra = layer(output.enc_topk_logits, output.enc_topk_bboxes)[1].sums(weights).sum()
        for number in range(logits.shape[1] - 1):
            extra = extra + layer(logits[:, number, noisy:], predicted[:, number, noisy:])[1].sums(weights).sum()
        if denoising:
            pairs = RTDetrLoss.get_cdn_matched_indices(denoising, targets)
            shares = weights / denoising["dn_num_group"]
            for number in range(logits.shape[1]):
                noise = layer(logits[:, number, :noisy], predicted[:, number, :noisy], pairs)[1]
                extra = extra + noise.sums(shares).sum()

        outcome = Outcome(
            labels=last.labels,
            care=last.care,
            object_index=owner,
            class_loss=last.log_loss,
            box_loss=last.box_loss.detach(),
            iou=last.iou,
            logits=logits[:, -1, noisy:].detach().transpose(1, 2),
            activation="sigmoid",
            object_area=objects.area(),
            object_labels=objects.labels,
        )
        class_loss, box_loss = last.sums(weights)
        return DetectionLoss(class_loss, box_loss, extra), outcome

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score of every class at every query, and its box, before any is left out.

        Returns:
            scores [B, C, L] in 0…1 and boxes [B, L, 4] xyxy pixels, clipped to the image; float32.
        """
        maps = self.forward(images)
        with torch.autocast(images.device.type, enabled=False), _batches_of_any_size():
            output = self._decode(maps)
            boxes = box_convert(output.intermediate_reference_points[:, -1] * _scale(maps), "cxcywh", "xyxy")
            scores = output.intermediate_logits[:, -1].transpose(1, 2).sigmoid()
        return scores, clip_boxes_to_image(boxes, (images.shape[-2], images.shape[-1]))

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return the highest-scoring pairs of query and class of each image, without NMS; see DetectorModel."""
        scores, boxes = self.candidates(images)
        queries = boxes.shape[1]
        best, pair = scores.flatten(1).topk(min(self.config.detections_per_image, scores[0].numel()))  # [B, n]
        boxes = boxes.gather(1, (pair % queries)[..., None].expand(-1, -1, 4)).cpu()
        labels, best = (pair // queries + 1).cpu(), best.cpu()
        found = (best >= self.config.score_floor).sum(1).tolist()
        return [
            {"boxes": boxes[image, :n], "scores": best[image, :n], "labels": labels[image, :n]}
            for image, n in enumerate(found)
        ]


def _scale(maps: Sequence[Tensor]) -> Tensor:
    """Width, height, width and height of the padded image that the feature maps belong to, [4], pixels."""
    height, width = (STRIDE * side for side in maps[-1].shape[-2:])
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=maps[-1].device)


@contextlib.contextmanager
def _batches_of_any_size() -> Iterator[None]:
    """Keep an export from making a constant of the batch size, which the library takes with ``len`` of a tensor."""
    if not torch.compiler.is_exporting():
        yield
        return
    names = vars(modeling_rt_detr_v2)
    names["len"] = lambda value: value.shape[0] if isinstance(value, Tensor) else len(value)
    try:
        yield
    finally:
        del names["len"]


def build(config: DetectorConfig, num_classes: int, seed: int) -> Detr:
    """Build RT-DETR v2; a row of DETECTORS."""
    return Detr(config, num_classes, seed=seed)
