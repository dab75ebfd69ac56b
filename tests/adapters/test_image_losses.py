"""Per-image losses sum to the library's loss of the batch, and are what the library gives for the image alone."""

import pytest
import torch

from isod.errors import InputError

IMAGES = 3


def boxes_of(generator, count, size=64):
    corners = torch.rand(count, 2, generator=generator) * size / 2
    return torch.cat([corners, corners + 6 + torch.rand(count, 2, generator=generator) * size / 3], 1)


@pytest.fixture(params=["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
def torchvision_model(request):
    from torchvision.models import detection

    torch.manual_seed(0)
    builder = getattr(detection, request.param)
    model = builder(weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=64).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # frozen, as with pretrained weights: an image alone has the same features as in the batch
    return model


def test_torchvision(torchvision_model):
    from isod.adapters.torchvision import ImageLosses

    generator = torch.Generator().manual_seed(1)
    images = list(torch.rand(IMAGES, 3, 64, 64, generator=generator))
    targets = [
        {"boxes": boxes_of(generator, count), "labels": torch.randint(1, 4, (count,), generator=generator)}
        for count in (4, 0, 1)
    ]
    torch.manual_seed(2)
    untouched = torchvision_model(images, targets)
    losses = ImageLosses(torchvision_model)
    torch.manual_seed(2)
    batch = torchvision_model(images, targets)
    for name, loss in untouched.items():
        torch.testing.assert_close(batch[name], loss)
    assert losses.scores().shape == (IMAGES,)
    assert (losses.scores() > 0).all()
    torch.testing.assert_close(losses.shares().sum(), sum(batch.values()).detach(), rtol=1e-5, atol=1e-5)
    if "rpn" not in dict(torchvision_model.named_children()):  # whose anchors are drawn at random
        alone = losses.scores()
        for i in range(IMAGES):
            expected = sum(torchvision_model([images[i]], [targets[i]]).values()).detach()
            torch.testing.assert_close(alone[i], expected, rtol=1e-4, atol=1e-4)
    torchvision_model.eval()(images)


def test_torchvision_models_that_are_not_supported():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    from isod.adapters.torchvision import ImageLosses

    with pytest.raises(InputError, match="not SSD"):
        ImageLosses(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))


def small_detr(name):
    from transformers import (
        DetrConfig,
        DetrForObjectDetection,
        DFineConfig,
        DFineForObjectDetection,
        HGNetV2Config,
        ResNetConfig,
        RTDetrConfig,
        RTDetrForObjectDetection,
        RTDetrResNetConfig,
    )

    torch.manual_seed(0)
    if name == "detr":
        backbone = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
        )
        return DetrForObjectDetection(
            DetrConfig(
                use_timm_backbone=False, backbone=None, backbone_config=backbone, num_queries=10, d_model=32,
                encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
                decoder_attention_heads=2, num_labels=3, auxiliary_loss=True, dropout=0.0,
            )
        )  # fmt: skip
    small = dict(
        encoder_hidden_dim=32, encoder_ffn_dim=32, d_model=32, num_queries=10, decoder_ffn_dim=32, decoder_layers=2,
        decoder_attention_heads=2, encoder_attention_heads=2, num_labels=3, num_denoising=8, dropout=0.0,
        decoder_in_channels=[32, 32, 32], freeze_backbone_batch_norms=True,
    )  # fmt: skip
    if name == "rt_detr":
        backbone = RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        return RTDetrForObjectDetection(
            RTDetrConfig(backbone_config=backbone, encoder_in_channels=[16, 16, 16], **small)
        )
    backbone = HGNetV2Config(
        hidden_sizes=[16] * 4, stem_channels=[3, 8, 8], stage_in_channels=[8, 16, 16, 16], stage_mid_channels=[8] * 4,
        stage_out_channels=[16] * 4, stage_num_blocks=[1] * 4, stage_numb_of_layers=[1] * 4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return DFineForObjectDetection(DFineConfig(backbone_config=backbone, encoder_in_channels=[16, 16, 16], **small))


@pytest.mark.parametrize("name", ["detr", "rt_detr", "d_fine"])
def test_transformers(name):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    from isod.adapters.transformers import ImageLosses

    model = small_detr(name).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(IMAGES, 3, 64, 64, generator=generator)
    labels = [
        {
            "class_labels": torch.randint(0, 3, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.3 + 0.2,
        }
        for count in (4, 0, 1)
    ]
    torch.manual_seed(3)
    untouched = model(pixel_values=images, labels=labels).loss
    losses = ImageLosses(model)
    torch.manual_seed(3)
    loss = model(pixel_values=images, labels=labels).loss
    torch.testing.assert_close(loss, untouched)
    assert losses.scores().shape == (IMAGES,)
    torch.testing.assert_close(losses.shares().sum(), loss.detach(), rtol=1e-5, atol=1e-5)
    loss.backward()
