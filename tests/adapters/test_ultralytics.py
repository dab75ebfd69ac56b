"""The trainer of ultralytics on real files: draws, per-image losses, its retry with half the batch, resuming."""

import numpy as np
import pytest
import torch
from PIL import Image

from isod.errors import InputError
from isod.sampling import lag_for
from isod.sampling.samplers import SAMPLERS
from tests.adapters.test_same_draws import BATCH, EPOCHS, SIZE, check
from tests.sampling.loops import assert_scores_are_of_their_examples, scores_of

pytest.importorskip("ultralytics", reason="needs the extra ultralytics (AGPL-3.0)")
from ultralytics.models.yolo.detect import DetectionTrainer

from isod.adapters.ultralytics import ImageLosses, importance_trainer

pytestmark = pytest.mark.filterwarnings("ignore")
STEP = 10  # grey level per index


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Image i is grey of level 10·i, so that its content says its index; one box each."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for index in range(SIZE if split == "train" else 2):
            grey = np.full((32, 32, 3), STEP * index, np.uint8)
            Image.fromarray(grey).save(tmp_path / "images" / split / f"{index:03}.png")
            (tmp_path / "labels" / split / f"{index:03}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.{index % 4 + 2}\n")
    path = tmp_path / "data.yaml"
    path.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [square, circle]\n")
    return path


PLAIN = dict(
    mosaic=0, close_mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, erasing=0, auto_augment=None,
)  # fmt: skip


def trainer_for(data, *, model="yolov8n.yaml", observe=lambda trainer, content: None, **settings):
    class Observed(importance_trainer(seed=5, sampler=SAMPLERS["LIS"])):
        def get_dataloader(self, *args, **kwargs):
            self.args.workers = 2  # ultralytics takes none on a CPU
            return super().get_dataloader(*args, **kwargs)

        def preprocess_batch(self, batch):
            batch = super().preprocess_batch(batch)
            self.images = batch["img"]
            self.content = (batch["img"].mean((1, 2, 3)) * 255 / STEP).round().long().cpu().tolist()
            observe(self, self.content)
            return batch

    arguments = dict(
        model=model, data=str(data), imgsz=32, batch=BATCH, epochs=EPOCHS, workers=2, device="cpu", val=False,
        plots=False, save=False, project=str(data.parent / "runs"), name="run", exist_ok=True, verbose=False, amp=False,
        warmup_epochs=0, lr0=1e-5, optimizer="SGD", pretrained=False,
    )  # fmt: skip
    return Observed(overrides=arguments | PLAIN | settings)


def test_the_same_draws_and_each_score_reaches_its_image(data, monkeypatch):
    batches = []
    # its loader is reset 5 epochs before the end, with batches in flight
    trainer = trainer_for(data, observe=lambda trainer, content: batches.append(content), close_mosaic=5)
    monkeypatch.setattr(ImageLosses, "scores", lambda self: scores_of(batches[-1]))
    trainer.train()
    assert trainer.train_loader.num_workers == 2
    check(batches, lag_for(2, 4), trainer.importance.table)


def test_half_the_batch_after_memory_ran_out(data, monkeypatch):
    batches = []

    def observe(trainer, content):
        batches.append(content)
        if len(batches) == 3:
            raise RuntimeError("out of memory")

    trainer = trainer_for(data, observe=observe, epochs=3)
    monkeypatch.setattr(ImageLosses, "scores", lambda self: scores_of(batches[-1]))
    trainer.train()
    lost = batches.pop(2)
    assert [len(batch) for batch in batches] == [4, 4] + 3 * 10 * [2]
    first_epoch = np.concatenate(batches)[:SIZE]
    assert sorted(first_epoch) == list(range(SIZE))  # nothing was skipped
    assert batches[2] + batches[3] == lost
    assert_scores_are_of_their_examples(trainer.importance.table)


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yolo26n.yaml"])  # one loss; one-to-many and one-to-one
def test_image_losses_sum_to_the_class_loss_of_the_library(data, model):
    seen = []
    trainer = trainer_for(data, model=model, epochs=1)

    def compare(trainer):
        losses, criterion = trainer.image_losses, trainer.model.criterion
        assert losses.shares().shape == losses.scores().shape == (BATCH,)
        if model == "yolov8n.yaml":
            expected = trainer.loss_items["cls_loss"]
        else:
            sums = [(part.bce.losses.sum() / part.bce.targets.sum().clamp(min=1)) for part in losses._parts]
            assert (sums[1] * criterion.one2one.hyp.cls).item() == pytest.approx(trainer.loss_items["cls_loss"].item())
            expected = (criterion.o2m * sums[0] + criterion.o2o * sums[1]) * criterion.one2one.hyp.cls
        torch.testing.assert_close(losses.shares().sum(), expected.float(), rtol=1e-5, atol=1e-5)
        seen.append(losses.scores())

    trainer.add_callback("on_train_batch_end", compare)
    trainer.train()
    assert len(seen) == 5
    assert (trainer.importance.table.scores > 0).all()


def test_resuming(data):
    batches = []

    def stop(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    first = trainer_for(data, epochs=3, save=True)
    first.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    last = data.parent / "runs" / "run" / "weights" / "last.pt"
    resumed = trainer_for(
        data, epochs=3, save=True, resume=str(last), model=str(last), observe=lambda _, content: batches.append(content)
    )
    resumed.train()
    assert len(batches) % 5 == 0
    assert resumed.importance.step == 15


@pytest.mark.parametrize("skips", [True, False])
def test_an_overflow_is_skipped_with_its_step(data, skips):
    """Normalisation over the batch carries an overflow of image 7 to the three images beside it."""
    beside = []

    def overflow(trainer, content):
        if 7 in content:
            trainer.images[content.index(7)] = 3e38
            beside.extend(content)

    trainer = trainer_for(data, observe=overflow, epochs=1, nbs=BATCH)
    if not skips:
        with pytest.raises(InputError, match="finite"):
            trainer.train()
        return

    def give_scaler(trainer):  # ultralytics has no mixed precision on a CPU
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    trainer.add_callback("on_train_start", give_scaler)
    trainer.train()
    table = trainer.importance.table
    assert trainer.importance.skipped == BATCH
    assert sorted(beside) == [i for i in range(SIZE) if table.last_step[i] == -1]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_loader_of_a_derived_trainer(data):
    class Replaced(importance_trainer(seed=0)):
        def get_dataloader(self, *args, **kwargs):
            return DetectionTrainer.get_dataloader(self, *args, **kwargs)

    trainer = trainer_for(data, epochs=1)
    trainer = Replaced(overrides=vars(trainer.args))
    with pytest.raises(InputError, match="a class derived from it makes its own"):
        trainer.train()


def test_images_may_not_be_mixed(data):
    with pytest.raises(InputError, match=r"mosaic, mixup put objects of several images .* set mosaic=0 mixup=0"):
        trainer_for(data, mosaic=1.0, mixup=0.1).train()
