"""The detector detr against the library's own loss, its don't-care rule by hand, and its runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.ops import box_convert, box_iou

from isod.config.settings import DetectorConfig
from isod.detector.model import build_detector
from isod.detector.saved import load_model
from isod.errors import InputError
from isod.objects import Objects
from tests.training.tiny_run import UNTIMED, Reports, run_here, tiny_run, weights_of

pytest.importorskip("transformers", reason="the extra detr is not installed")

from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss, RTDetrLoss

from isod.detector.detr import QUERIES, query_losses

CPU = torch.device("cpu")
CONFIG = DetectorConfig(name="detr", pyramid_channels=32)
BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"
C = 3


def batch(height=48, width=160, dont_care=False):
    """Three images: three objects, none, two; with ``dont_care`` one of the first image's covers its left half."""
    boxes = [[[10, 5, 50, 40], [90, 10, 100, 22], [120, 20, 158, 47]], [], [[0, 0, 30, 30], [60, 8, 75, 40]]]
    labels = [[1, 3, 2], [], [2, 2]]
    if dont_care:
        boxes[0].append([0, 0, width / 2, height])
        labels[0].append(1)
    marks = [np.arange(len(row)) == 3 for row in labels]
    as_arrays = [np.array(row, np.float32).reshape(-1, 4) for row in boxes], [np.array(row, int) for row in labels]
    pixels = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pixels.to(memory_format=torch.channels_last), Objects.from_lists(*as_arrays, marks).to(CPU)


@pytest.fixture(scope="module")
def shared():
    return build_detector(CONFIG, C, seed=0)


@pytest.fixture
def model(shared):
    """As it was built, in training mode."""
    state = {name: value.clone() for name, value in shared.state_dict().items()}
    yield shared.train()
    shared.load_state_dict(state)


def total(loss):
    return loss.class_loss + loss.box_loss + loss.extra


def library_view(model, images, objects):
    """Loss and outcome of a batch, and of the same pass: the library's loss, its loss dict, outputs and targets.

    160×48 pixels are padded to 160×64.
    """
    passes = []
    hook = model.network.register_forward_hook(lambda module, inputs, output: passes.append(output))
    loss, outcome = model.loss(images, objects)
    hook.remove()
    (output,) = passes
    targets = []
    for image in range(len(images)):
        boxes, labels, dont_care = objects.of(image)
        known = ~dont_care
        shares = box_convert(boxes[known], "xyxy", "cxcywh") / torch.tensor([160, 64, 160, 64])
        targets.append({"class_labels": labels[known] - 1, "boxes": shares})
    theirs, losses, _ = RTDetrForObjectDetectionLoss(
        output.intermediate_logits[:, -1],
        targets,
        CPU,
        output.intermediate_reference_points[:, -1],
        model.settings,
        output.intermediate_logits,
        output.intermediate_reference_points,
        enc_topk_logits=output.enc_topk_logits,
        enc_topk_bboxes=output.enc_topk_bboxes,
        denoising_meta_values=output.denoising_meta_values,
    )
    return loss, outcome, theirs, losses, output, targets


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_the_library_s(model, training):
    model.train(training)
    loss, _, theirs, losses, output, _ = library_view(model, *batch())
    assert (output.denoising_meta_values is not None) == training == any("_dn_" in name for name in losses)
    torch.testing.assert_close(loss.class_loss, losses["loss_vfl"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.box_loss, losses["loss_bbox"] + losses["loss_giou"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total(loss), theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_the_library_s(model):
    loss, _, theirs, *_ = library_view(model, *batch())
    parameters = list(model.parameters())
    ours = torch.autograd.grad(total(loss), parameters, retain_graph=True)
    for one, other in zip(ours, torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_outcome_s_sums_are_the_library_s_losses_without_focal_weights(model):
    images, objects = batch()
    _, outcome, _, losses, output, targets = library_view(model, images, objects)
    noisy = output.denoising_meta_values["dn_num_split"][0]
    last = {
        "logits": output.intermediate_logits[:, -1, noisy:],
        "pred_boxes": output.intermediate_reference_points[:, -1, noisy:],
    }
    library = RTDetrLoss(model.settings)
    pairs, count = library.matcher(last, targets), 5
    plain = library.loss_labels_bce(last, targets, pairs, count)["loss_bce"]
    torch.testing.assert_close(outcome.class_loss.sum() / count, plain.detach(), rtol=1e-5, atol=1e-6)
    box_loss = (losses["loss_bbox"] + losses["loss_giou"]).detach()
    torch.testing.assert_close(outcome.box_loss.sum() / count, box_loss, rtol=1e-5, atol=1e-6)

    assert outcome.activation == "sigmoid"
    torch.testing.assert_close(outcome.logits, last["logits"].detach().transpose(1, 2))
    for image, (queries, places) in enumerate(pairs):
        owner = torch.full((QUERIES,), -1)
        owner[queries] = places
        assert torch.equal(outcome.object_index[image], owner)
        assert sorted(owner[owner >= 0].tolist()) == list(range(objects.counts[image]))  # each object has one query
        shares = last["pred_boxes"][image, queries].detach()
        boxes = box_convert(shares * torch.tensor([160, 64, 160, 64]), "cxcywh", "xyxy")
        torch.testing.assert_close(
            outcome.iou[image, queries], box_iou(boxes, objects.boxes[image, places]).diagonal(), rtol=1e-4, atol=1e-5
        )
        assert torch.equal(outcome.labels[image], torch.where(owner >= 0, objects.labels[image][owner], 0))
    assert not outcome.iou[outcome.object_index < 0].any()
    assert not outcome.box_loss[outcome.object_index < 0].any()
    assert outcome.care.all()


def test_two_queries_by_hand(model):
    """An image of 100×100 with an object of class 2, [0, 0, 50, 50], and a don't-care box, [40, 40, 100, 100].

    Query 0 owns the object and predicts [0, 0, 50, 100]: IoU 1/2, which is GIoU too, and the centre (25, 50) and height
    1 are off by 0.25 and 0.5 of the image. Query 1 owns none and has its centre (60, 60) in the don't-care box, query 2
    has its centre at (20, 80), outside of it. All logits are 0, so that every σ is 1/2 and every BCE ln 2.
    """
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.6, 0.6, 0.2, 0.2], [0.2, 0.8, 0.2, 0.2]]])
    objects = Objects.from_lists(
        [np.array([[0, 0, 50, 50], [40, 40, 100, 100]])], [np.array([2, 1])], [np.array([False, True])]
    ).to(CPU)
    owner = torch.tensor([[0, -1, -1]])
    got = query_losses(torch.zeros(1, 3, C), boxes, owner, objects, torch.full((4,), 100.0), model.settings)
    ln2 = float(np.log(2))
    other = 0.75 * 0.5**2 * ln2  # α·σ²·BCE, a class that the query should not have
    assert got.labels.tolist() == [[2, 0, 0]]
    assert got.care.tolist() == [[True, False, True]]
    torch.testing.assert_close(got.class_loss, torch.tensor([[0.5 * ln2 + 2 * other, 0.0, 3 * other]]))
    torch.testing.assert_close(got.log_loss, torch.tensor([[3 * ln2, 0.0, 3 * ln2]]))
    torch.testing.assert_close(got.box_loss, torch.tensor([[5 * 0.75 + 2 * 0.5, 0.0, 0.0]]))
    torch.testing.assert_close(got.iou, torch.tensor([[0.5, 0.0, 0.0]]))


def test_a_don_t_care_box_leaves_the_class_of_its_queries_out(model):
    images, objects = batch(dont_care=True)
    loss, outcome, theirs, *_ = library_view(model, images, objects)
    assert not outcome.care[0].all()
    assert outcome.care[1:].all()
    unknown = ~outcome.care
    assert not outcome.class_loss[unknown].any()
    assert not outcome.labels[unknown].any()
    assert outcome.object_index.max() == 2  # the don't-care box is object 3
    assert total(loss) < theirs


@pytest.mark.parametrize("training", [True, False])
def test_an_image_that_is_don_t_care_everywhere_trains_nothing(model, training):
    model.train(training)
    images, _ = batch()
    objects = Objects.from_lists([np.array([[-1, -1, 400, 400]])] * 3, [np.array([1])] * 3, [np.array([True])] * 3)
    loss, outcome = model.loss(images, objects.to(CPU))
    assert total(loss) == 0
    assert not outcome.care.any()
    total(loss).backward()


@pytest.mark.parametrize("training", [True, False])
def test_images_without_objects_train_the_background(model, training):
    model.train(training)
    images, _ = batch()
    loss, outcome = model.loss(images, Objects.from_lists([np.zeros((0, 4))] * 3, [np.zeros(0, int)] * 3).to(CPU))
    assert loss.class_loss > 0
    assert loss.box_loss == 0
    assert (outcome.object_index == -1).all()
    total(loss).backward()


def test_example_weights_multiply_each_image_s_share(model):
    images, objects = batch(dont_care=True)

    def parts(weights):
        model.steps.zero_()  # the same denoising queries each time
        loss, outcome = model.loss(images, objects, example_weights=weights)
        return torch.stack([loss.class_loss, loss.box_loss, loss.extra]), outcome

    each = [parts(row)[0] for row in torch.eye(3)]
    whole, outcome = parts(None)
    torch.testing.assert_close(sum(each), whole)
    weighted, same = parts(torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(weighted, 0.5 * each[0] + 2 * each[1] + 3 * each[2])
    assert torch.equal(outcome.class_loss, same.class_loss)


def test_more_objects_than_queries_are_no_error(model):
    images, _ = batch(32, 32)
    boxes = np.array([[x, y, x + 6, y + 6] for x in range(0, 24, 4) for y in range(0, 24, 4)], np.float32)  # 36
    objects = Objects.from_lists([boxes] * 3, [np.ones(36, int)] * 3).to(CPU)
    loss, outcome = model.loss(images, objects)
    assert outcome.labels.shape == (3, 16 + 4 + 1)
    assert (outcome.object_index >= 0).all()
    total(loss).backward()


@pytest.mark.parametrize(
    ("height", "width", "queries"), [(48, 160, QUERIES), (240, 320, QUERIES), (144, 256, QUERIES), (33, 31, 42)]
)
def test_any_size_of_image(model, height, width, queries):
    """33×31 is padded to 64×32: 32 + 8 + 2 locations."""
    images, objects = batch(height, width)
    with torch.inference_mode():  # as validation is, before training
        scores, boxes = model.eval().candidates(images)
        assert torch.equal(model.detect(images[:1])[0]["scores"], model.detect(images[:1])[0]["scores"])
    assert scores.shape == (3, C, queries)
    assert boxes.shape == (3, queries, 4)
    assert boxes.min() >= 0
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    loss, outcome = model.train().loss(images, objects)
    assert outcome.logits.shape == (3, C, queries)
    total(loss).backward()


def test_an_export_of_its_candidates_takes_batches_of_any_size(model):
    class Candidates(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model.eval()

        def forward(self, images):
            return self.model.candidates(images)

    images, _ = batch()
    with torch.no_grad():
        batches = ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.export.export(Candidates(), (images[:2],), dynamic_shapes=batches, strict=False).module()
        for some in (images[:1], images):
            torch.testing.assert_close(program(some), model.candidates(some))


def test_detections_are_the_best_pairs_of_query_and_class(model):
    model.eval()
    images, _ = batch()
    scores, boxes = (item.detach() for item in model.candidates(images))
    floor = float(scores[0].flatten().sort(descending=True).values[20])  # 21 pairs of the first image reach it
    model.config = replace(CONFIG, score_floor=floor, detections_per_image=30)
    for image, found in enumerate(model.detect(images)):
        assert len(found["scores"]) == min(30, int((scores[image] >= floor).sum()))
        assert (found["scores"].diff() <= 0).all()
        for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
            query = int((scores[image, label - 1] - score).abs().argmin())
            assert scores[image, label - 1, query] == score
            assert torch.equal(boxes[image, query], box)
    assert len(model.detect(images)[0]["scores"]) == 21
    model.config = CONFIG


def test_the_seed_alone_decides():
    before = torch.random.get_rng_state()
    one, same, other = (build_detector(CONFIG, C, seed=seed) for seed in (4, 4, 5))
    results = [(model.loss(*batch())[0], model.loss(*batch())[0]) for model in (one.train(), same.train())]
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, value), (_, copy) in zip(one.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(value, copy), name
    assert not torch.equal(one.network.enc_output[0].weight, other.network.enc_output[0].weight)
    assert [total(loss) for loss in results[0]] == [total(loss) for loss in results[1]]
    assert results[0][0].extra != results[0][1].extra  # the second step drew other denoising queries
    assert results[0][0].class_loss == results[0][1].class_loss
    assert one.state_dict()["steps"] == 2


def test_losses_are_float32_under_autocast(model):
    images, objects = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, outcome = model.loss(images, objects)
        scores, boxes = model.eval().candidates(images)
    values = (loss.class_loss, loss.box_loss, loss.extra, outcome.class_loss, outcome.box_loss, outcome.logits)
    assert {value.dtype for value in (*values, outcome.iou, scores, boxes)} == {torch.float32}


def test_a_pass_that_diverges_gives_a_loss_that_is_not_finite(model):
    """Which the training loop turns into a sentence; the library's matcher would raise an error of its own."""
    with torch.no_grad():
        model.network.enc_output[0].weight.fill_(torch.nan)
    loss, _ = model.loss(*batch())
    assert not total(loss).isfinite()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"backbone": "mobilenet_v3_large"},
            "has no backbone 'mobilenet_v3_large': set it to one of resnet18, ",
        ),
    ],
)
def test_what_it_cannot_be_is_a_sentence(change, sentence):
    with pytest.raises(InputError, match=rf"^detector 'detr' {sentence}"):
        build_detector(replace(CONFIG, **change), C, seed=0)


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_larger_backbones(backbone):
    model = build_detector(replace(CONFIG, backbone=backbone), C, seed=0)
    loss, _ = model.loss(*batch())
    assert total(loss).isfinite()


# --- runs -----------------------------------------------------------------------------------------------------------


def assert_same_results(first, second):
    one, other = (pd.read_csv(folder / "metrics.csv").drop(columns=UNTIMED) for folder in (first, second))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=0, atol=0)


def test_an_interrupted_run_resumes_bit_identically_and_its_model_opens(tiny_store, tmp_path):
    config = replace(tiny_run("UIS", iterations=9, validate_every=3, batch_size=4, lr=1e-3), detector=CONFIG)

    def interrupt(iteration):
        if iteration == 6:
            raise KeyboardInterrupt

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_here(config, tiny_store, whole, checkpoint_share=1.0)
    with pytest.raises(KeyboardInterrupt):
        run_here(config, tiny_store, halves, Reports(interrupt), checkpoint_share=1.0)
    run_here(config, tiny_store, halves, resume=True, checkpoint_share=1.0)
    assert_same_results(whole, halves)
    model, description = load_model(whole / "model")
    assert description.detector == CONFIG
    assert int(model.steps) == 9
    assert model.detect(torch.zeros(1, 3, 48, 160, dtype=torch.uint8))[0]["boxes"].shape[1] == 4
