"""float16 overflows for one image: a GradScaler skips the step, and the sampler its score. Without one, it is an error.

The logit of example 7 is beyond 65504, the largest float16, so its loss and all gradients of its batch are infinite.
GradScaler is torch's own; libraries that make none on a CPU are given one.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from isod.errors import InputError
from isod.sampling import ImportanceBatchSampler, lag_for
from tests.adapters.test_same_draws import BATCH, SIZE, Numbers, new_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
TOO_LARGE = 7


class Overflowing(Numbers):
    """Example i contains (i + 1) / 64, but example 7 contains 60000."""

    def __getitem__(self, index):
        content = 6e4 if index == TOO_LARGE else (index + 1) / 64
        return {"content": torch.tensor([content]), "labels": torch.tensor([0.0])}


class Tiny(nn.Module):
    """A linear layer in float16, what autocast makes of it on a CPU as well."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, content, labels=None):
        with torch.autocast("cpu", torch.float16):
            logits = self.layer(content)
        losses = logits.float().square()[:, 0]
        return {"loss": losses.mean(), "losses": losses}


def new_model():
    model = Tiny()
    nn.init.constant_(model.layer.weight, 2.0)
    nn.init.zeros_(model.layer.bias)
    return model


def new_scaler(**settings):
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, **settings)


@pytest.fixture
def accelerate():
    """The library without the state that another test in this process left: it allows one precision in each."""
    module = pytest.importorskip("accelerate", reason="needs the extra accelerate")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield module
    AcceleratorState._reset_state(reset_partial_state=True)


def check(table, sampler, weights):
    """One epoch: one step of five was skipped, and one score of twenty."""
    assert sampler.sampler.skipped == 1
    assert [i for i in range(SIZE) if table.last_step[i] == -1] == [TOO_LARGE]
    assert np.isfinite(table.scores).all()
    assert len(weights) == 5
    assert sum(before != after for before, after in pairwise([2.0, *weights])) == 4
    assert sampler.step == 5


@pytest.mark.parametrize("skips", [True, False])
def test_plain_loop(skips):
    table, model, weights = new_table(), new_model(), []
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.01), new_scaler(enabled=skips)
    sampler = ImportanceBatchSampler(table, batch_size=BATCH)

    def train():
        for indices, items in DataLoader(sampler.indexed(Overflowing()), batch_sampler=sampler):
            outputs = model(items["content"])
            optimizer.zero_grad()
            scaler.scale(outputs["loss"]).backward()
            scaler.step(optimizer)
            scaler.update()
            weights.append(model.layer.weight.item())
            sampler.update(outputs["losses"], indices, skip_nonfinite=scaler.is_enabled())

    if skips:
        train()
        check(table, sampler, weights)
    else:
        with pytest.raises(InputError, match="finite"):
            train()


@pytest.mark.parametrize("skips", [True, False])
def test_lightning(skips):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    from lightning.pytorch.plugins import MixedPrecision

    from isod.adapters.lightning import ImportanceCallback

    weights = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = new_model()

        def training_step(self, batch, batch_idx):
            outputs = self.model(batch[1]["content"])
            return {"loss": outputs["loss"], "scores": outputs["losses"].detach()}

        def on_train_batch_end(self, *args):
            weights.append(self.model.layer.weight.item())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    importance = ImportanceCallback(new_table())
    # precision="16-mixed" is bf16 on a CPU, where Lightning makes no scaler by itself
    plugins = [MixedPrecision("16-mixed", "cpu", new_scaler())] if skips else None
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[importance], plugins=plugins,
    )  # fmt: skip
    if skips:
        trainer.fit(Module(), importance.loader(Overflowing(), batch_size=BATCH))
        check(importance.table, importance.sampler, weights)
    else:
        with pytest.raises(InputError, match="finite"):
            trainer.fit(Module(), importance.loader(Overflowing(), batch_size=BATCH))


@pytest.mark.parametrize("skips", [True, False])
def test_accelerate(accelerate, skips):
    from isod.adapters.accelerate import prepare_loader

    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="fp16")
    assert accelerator.scaler is None  # on a CPU
    if skips:
        accelerator.scaler = new_scaler()
    table, weights = new_table(), []
    sampler = ImportanceBatchSampler(table, batch_size=BATCH, lag=lag_for(lookahead=1))
    loader = prepare_loader(accelerator, DataLoader(sampler.indexed(Overflowing()), batch_sampler=sampler))
    model = new_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))

    def train():
        for indices, items in loader:
            outputs = model(items["content"])
            accelerator.backward(outputs["loss"])
            optimizer.step()
            optimizer.zero_grad()
            weights.append(model.layer.weight.item())
            sampler.update(outputs["losses"], indices, skip_nonfinite=accelerator.scaler is not None)

    if skips:
        train()
        check(table, sampler, weights)
    else:
        with pytest.raises(InputError, match="finite"):
            train()


@pytest.mark.parametrize("skips", [True, False])
def test_transformers(accelerate, tmp_path, skips):
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    from isod.adapters.transformers import ImportanceTrainer

    model, weights = new_model(), []

    class After(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            weights.append(model.layer.weight.item())

    trainer = ImportanceTrainer(
        table=new_table(),
        score=lambda outputs, inputs: outputs["losses"],
        model=model,
        train_dataset=Overflowing(),
        callbacks=[After()],
        args=transformers.TrainingArguments(
            str(tmp_path), per_device_train_batch_size=BATCH, num_train_epochs=1, use_cpu=True, fp16=True,
            report_to=[], disable_tqdm=True, logging_strategy="no", save_strategy="no", max_grad_norm=0.0,
            optim="sgd", learning_rate=0.01, lr_scheduler_type="constant",
        ),
    )  # fmt: skip
    assert trainer.accelerator.scaler is None  # on a CPU, fp16=True makes none, and no step is skipped
    if skips:
        trainer.accelerator.scaler = new_scaler()
        trainer.train()
        check(trainer.table, trainer.importance, weights)
    else:
        with pytest.raises(InputError, match="finite"):
            trainer.train()
