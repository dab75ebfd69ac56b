"""One test for all loops: the same 300 draws, and each score reaches the example that it was made of.

Scores are made of what an example contains, which says its index, and never of the indices that an adapter passes on.
"""

import os

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn
from torch.utils.data import DataLoader, Dataset

from isod.errors import InputError
from isod.sampling import ImportanceBatchSampler, ImportanceTable, lag_for
from isod.sampling.samplers import SAMPLERS
from tests.sampling.loops import assert_scores_are_of_their_examples, scores_of

pytestmark = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning", "ignore::UserWarning")

SIZE, BATCH, EPOCHS, WORKERS = 20, 4, 15, 2  # 5 batches an epoch


class Numbers(Dataset):
    """Example i contains i."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return {"content": torch.tensor([float(index)]), "labels": torch.tensor([0.0])}


def new_table():
    return ImportanceTable(SIZE, sampler=SAMPLERS["UIS"], seed=5)


def expected(lag, table=None, epochs=EPOCHS):
    """The batches of a plain loop without workers."""
    table = table or new_table()
    sampler = ImportanceBatchSampler(table, batch_size=BATCH, lag=lag)
    batches = []
    for _ in range(epochs):
        for indices, items in DataLoader(sampler.indexed(Numbers()), batch_sampler=sampler):
            batches.append(items["content"][:, 0].long().tolist())
            sampler.update(scores_of(batches[-1]), indices)
    assert sum(map(len, batches)) == 20 * epochs
    return batches


def check(batches, lag, table):
    reference = new_table()
    assert batches == expected(lag, reference)
    assert np.array_equal(table.scores, reference.scores)
    assert_scores_are_of_their_examples(table)


def test_plain_loop():
    table = new_table()
    sampler = ImportanceBatchSampler(table, batch_size=BATCH, lag=lag_for(WORKERS))
    loader = DataLoader(sampler.indexed(Numbers()), batch_sampler=sampler, num_workers=WORKERS, persistent_workers=True)
    batches = []
    for _ in range(EPOCHS):
        for indices, items in loader:
            batches.append(items["content"][:, 0].long().tolist())
            sampler.update(scores_of(batches[-1]), indices)
    check(batches, lag_for(WORKERS), table)
    assert expected(0) != expected(lag_for(WORKERS))


def train_with_lightning(table, *, max_epochs=EPOCHS, resume=None, foreign_loader=False, **arguments):
    import lightning.pytorch as lightning

    from isod.adapters.lightning import ImportanceCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.batches = nn.Linear(1, 1), []

        def training_step(self, batch, batch_idx):
            content = batch[1]["content"]
            self.batches.append(content[:, 0].long().tolist())
            return {"loss": self.layer(content).square().mean(), "scores": scores_of(content[:, 0])}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-6)

        def train_dataloader(self):
            return importance.loader(Numbers(), batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)

    module, importance = Module(), ImportanceCallback(table)
    settings = dict(enable_checkpointing=False, callbacks=[importance]) | arguments
    settings["callbacks"] = [importance, *arguments.get("callbacks", [])]
    trainer = lightning.Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, **settings,
    )  # fmt: skip
    loader = DataLoader(Numbers(), batch_size=BATCH, shuffle=True) if foreign_loader else None
    trainer.fit(module, loader, ckpt_path=resume, weights_only=False)
    return module.batches


def test_lightning():
    pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    table = new_table()
    check(train_with_lightning(table, accumulate_grad_batches=2), lag_for(WORKERS), table)
    with pytest.raises(InputError, match="does not draw with this callback's sampler"):
        train_with_lightning(new_table(), foreign_loader=True)


def test_lightning_reloads_the_loader():
    """A loader made again in the middle of training hands out what was in flight."""
    pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    table = new_table()
    batches = train_with_lightning(table, reload_dataloaders_every_n_epochs=1, max_epochs=3)
    assert batches == expected(lag_for(WORKERS), epochs=3)
    assert_scores_are_of_their_examples(table)


def test_lightning_resumes_in_the_middle_of_an_epoch(tmp_path):
    pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=8, save_top_k=-1)
    whole = train_with_lightning(new_table(), max_epochs=3, enable_checkpointing=True, callbacks=[saves])
    table = new_table()
    resumed = train_with_lightning(table, max_epochs=3, resume=str(tmp_path / "step=8.ckpt"))
    assert whole[8:] == resumed
    assert_scores_are_of_their_examples(table)


class Tiny(nn.Module):
    """What the Trainer of transformers takes for a model."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, content, labels):
        return {"loss": (self.layer(content) - labels).square().mean(), "content": content}


def train_with_transformers(folder, table, *, accumulation=2, resume=None, times=1, **arguments):
    from transformers import TrainingArguments

    from isod.adapters.transformers import ImportanceTrainer

    batches = []

    def score(outputs, inputs):
        batches.append(inputs["content"][:, 0].long().tolist())
        return scores_of(outputs["content"][:, 0])

    settings = dict(num_train_epochs=EPOCHS, save_strategy="no") | arguments
    trainer = ImportanceTrainer(
        table=table,
        score=score,
        model=Tiny(),
        train_dataset=Numbers(),
        args=TrainingArguments(
            str(folder), per_device_train_batch_size=BATCH, gradient_accumulation_steps=accumulation, use_cpu=True,
            dataloader_num_workers=WORKERS, report_to=[], disable_tqdm=True, logging_strategy="no", **settings,
        ),
    )  # fmt: skip
    for _ in range(times):
        trainer.train(resume_from_checkpoint=resume)
    return batches


def test_transformers(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    table = new_table()
    check(train_with_transformers(tmp_path, table), lag_for(WORKERS, lookahead=1, accumulation=2), table)


def test_transformers_trains_again(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    table = new_table()
    batches = train_with_transformers(tmp_path, table, accumulation=1, times=2, num_train_epochs=2)
    assert batches == expected(lag_for(WORKERS, lookahead=1), epochs=4)
    assert_scores_are_of_their_examples(table)


@pytest.mark.parametrize("ignore_data_skip", [False, True])
def test_transformers_resumes_in_the_middle_of_an_epoch(tmp_path, ignore_data_skip):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    table = new_table()
    save = dict(save_strategy="steps", save_steps=8, num_train_epochs=3, ignore_data_skip=ignore_data_skip)
    whole = train_with_transformers(tmp_path, table, accumulation=1, **save)
    assert len(whole) == 15
    table = new_table()
    resumed = train_with_transformers(tmp_path, table, accumulation=1, resume=str(tmp_path / "checkpoint-8"), **save)
    assert whole[8:] == resumed
    assert_scores_are_of_their_examples(table)


def loop_with_accelerate(accelerator, table, batch_size, lag, epochs=EPOCHS):
    from isod.adapters.accelerate import prepare_loader

    sampler = ImportanceBatchSampler(table, batch_size=batch_size, lag=lag)
    loader = DataLoader(sampler.indexed(Numbers()), batch_sampler=sampler, num_workers=WORKERS, persistent_workers=True)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    loader = prepare_loader(accelerator, loader)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    batches = []
    for _ in range(epochs):
        for indices, items in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(items["content"]).square().mean())
                optimizer.step()
                optimizer.zero_grad()
            batches.append(items["content"][:, 0].long().tolist())
            sampler.update(scores_of(batches[-1]), indices)
    return batches


def test_accelerate():
    accelerate = pytest.importorskip("accelerate", reason="needs the extra accelerate")
    table, lag = new_table(), lag_for(WORKERS, lookahead=1)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    check(loop_with_accelerate(accelerator, table, BATCH, lag), lag, table)


def accelerate_on_rank(rank, folder, epochs):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "1",
    }  # fmt: skip
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    # what accelerate does by itself: the sampler is sharded a second time, which the first update reports
    sampler = ImportanceBatchSampler(new_table(), batch_size=2, lag=8)
    loader = accelerator.prepare(DataLoader(sampler.indexed(Numbers()), batch_sampler=sampler))
    indices, items = next(iter(loader))
    with pytest.raises(InputError, match="shards the sampler a second time"):
        sampler.update(scores_of(items["content"][:, 0]), indices)

    table = new_table()
    batches = loop_with_accelerate(accelerator, table, BATCH // 2, lag_for(WORKERS, lookahead=1), epochs)
    torch.save((batches, torch.from_numpy(table.scores.copy())), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("epochs", [3, pytest.param(EPOCHS, marks=pytest.mark.slow)])
def test_accelerate_with_two_processes(tmp_path, epochs):
    pytest.importorskip("accelerate", reason="needs the extra accelerate")
    multiprocessing.spawn(accelerate_on_rank, args=(str(tmp_path), epochs), nprocs=2)
    (one, scores), (other, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    reference = new_table()
    assert [a + b for a, b in zip(one, other, strict=True)] == expected(
        lag_for(WORKERS, lookahead=1), reference, epochs
    )
    assert scores.tolist() == others.tolist() == reference.scores.tolist()
