"""What each of two processes does: `python -m torch.distributed.run --nproc-per-node 2 -m tests.adapters.on_two_ranks`.

The arguments are the library and a folder. Each rank saves the batches that it trained, and the table's scores: of a
whole run, and of one that resumes from a checkpoint in the middle of an epoch.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from isod.errors import InputError
from tests.adapters.test_same_draws import Numbers, Tiny, new_table
from tests.sampling.loops import scores_of

EPOCHS, BATCH, SAVED = 3, 2, 7  # of each rank; the checkpoint is in the middle of the second epoch


def with_lightning(folder, table, resume):
    import lightning.pytorch as lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    from isod.adapters.lightning import ImportanceCallback

    class Module(lightning.LightningModule):
        def __init__(self, importance):
            super().__init__()
            self.layer, self.importance, self.batches = nn.Linear(1, 1), importance, []

        def train_dataloader(self):
            return self.importance.loader(Numbers(), batch_size=BATCH, num_workers=1)

        def training_step(self, batch, batch_idx):
            content = batch[1]["content"]
            self.batches.append(content[:, 0].long().tolist())
            return {"loss": self.layer(content).square().mean(), "scores": scores_of(content[:, 0])}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-6)

    def trainer(importance, **settings):
        saves = ModelCheckpoint(folder, "{step}", every_n_train_steps=SAVED, save_top_k=-1)
        return lightning.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[importance, saves], **settings,
        )  # fmt: skip

    importance = ImportanceCallback(table)
    module = Module(importance)
    with pytest.raises(InputError, match="use_distributed_sampler=False"):
        trainer(importance).fit(module)
    trainer(importance, use_distributed_sampler=False).fit(
        module, ckpt_path=folder / f"step={SAVED}.ckpt" if resume else None, weights_only=False
    )
    return module.batches


def with_transformers(folder, table, resume):
    from transformers import TrainingArguments

    from isod.adapters.transformers import ImportanceTrainer

    batches = []

    def score(outputs, inputs):
        batches.append(inputs["content"][:, 0].long().tolist())
        return scores_of(outputs["content"][:, 0])

    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=BATCH, num_train_epochs=EPOCHS, use_cpu=True, ddp_backend="gloo",
        dataloader_num_workers=1, dataloader_prefetch_factor=2, report_to=[], disable_tqdm=True,
        logging_strategy="no", save_strategy="steps", save_steps=SAVED,
    )  # fmt: skip
    assert arguments.world_size == 2
    trainer = ImportanceTrainer(table=table, score=score, model=Tiny(), train_dataset=Numbers(), args=arguments)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}") if resume else None)
    return batches


def main(library, folder):
    train = {"lightning": with_lightning, "transformers": with_transformers}[library]
    rank = os.environ["RANK"]
    for name in ("whole", "resumed"):
        table = new_table()
        batches = train(Path(folder), table, resume=name == "resumed")
        torch.save((batches, table.scores.tolist()), f"{folder}/{name}-{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
