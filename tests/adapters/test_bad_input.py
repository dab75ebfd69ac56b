"""What the adapters refuse, before anything is trained."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from isod.errors import InputError
from isod.sampling import SAMPLERS, ImportanceBatchSampler, ImportanceTable, lag_for
from tests.adapters.test_same_draws import Numbers, Tiny, new_table


def test_accelerate():
    accelerate = pytest.importorskip("accelerate", reason="needs the extra accelerate")
    from isod.adapters.accelerate import prepare_loader

    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(InputError, match="the loader draws with BatchSampler of RandomSampler"):
        prepare_loader(accelerator, DataLoader(Numbers(), batch_size=4, shuffle=True))
    for lag, enough in [(4, False), (5, True)]:
        sampler = ImportanceBatchSampler(new_table(), batch_size=4, lag=lag)
        loader = DataLoader(sampler.indexed(Numbers()), batch_sampler=sampler, num_workers=2)
        if enough:
            prepare_loader(accelerator, loader)
        else:
            with pytest.raises(InputError, match="lag is 4 and this loop needs 5: 2 workers · 2 batches, 1 read ahead"):
                prepare_loader(accelerator, loader)
    sampler = ImportanceBatchSampler(new_table(), batch_size=4, lag=lag_for(lookahead=1), rank=0, world_size=2)
    with pytest.raises(InputError, match="built for 2 processes and the accelerator has 1"):
        prepare_loader(accelerator, DataLoader(sampler.indexed(Numbers()), batch_sampler=sampler))


def test_lightning():
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    from isod.adapters.lightning import ImportanceCallback

    importance = ImportanceCallback(ImportanceTable(19, seed=0))
    with pytest.raises(InputError, match="20 examples and the importance table 19"):
        importance.loader(Numbers(), batch_size=4)
    importance = ImportanceCallback(new_table())
    importance.loader(Numbers(), batch_size=4)
    with pytest.raises(InputError, match="training_step must return"):
        importance.on_train_batch_end(None, None, {"loss": 1.0}, None, 0)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for scores, message in [(torch.ones(9), "objects to one number"), (torch.full((4,), torch.nan), "finite")]:
        indices = next(iter(importance.sampler))
        with pytest.raises(InputError, match=message):
            importance.on_train_batch_end(trainer, None, {"loss": 1.0, "scores": scores}, (indices, None), 0)


def test_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    from isod.adapters.transformers import ImageLosses, ImportanceTrainer

    def trainer(table, *, kind=ImportanceTrainer, score=None, **arguments):
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"), use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", **arguments
        )
        return kind(table=table, score=score or print, model=Tiny(), train_dataset=Numbers(), args=arguments)

    class Replaced(ImportanceTrainer):
        def get_train_dataloader(self):
            return transformers.Trainer.get_train_dataloader(self)

    with pytest.raises(InputError, match="says no indices: the loader of get_train_dataloader was replaced"):
        trainer(new_table(), kind=Replaced).train()
    with pytest.raises(InputError, match="objects to one number"):
        trainer(new_table(), score=lambda outputs, inputs: torch.ones(30)).train()

    weighted = ImportanceTable(20, seed=0, weight_exponent=1.0), ImportanceTable(20, seed=0, strategy="prune")
    for table in weighted:
        with pytest.raises(InputError, match="gives each example a weight for its loss, and the Trainer computes the"):
            ImportanceTrainer(table=table)
    with pytest.raises(InputError, match="'UIS' draws by 'uncertainty' and the Trainer scores images by their loss"):
        ImportanceTrainer(table=ImportanceTable(20, seed=0, sampler=SAMPLERS["UIS"]))
    with pytest.raises(InputError, match="auto_find_batch_size to be False"):
        trainer(new_table(), auto_find_batch_size=True).get_train_dataloader()
    with pytest.raises(InputError, match="20 examples and the importance table 19"):
        trainer(ImportanceTable(19, seed=0)).get_train_dataloader()
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no importance\.pt"):
        trainer(new_table()).train(resume_from_checkpoint=True)
    model = nn.Linear(1, 1)
    model.loss_function = print
    with pytest.raises(InputError, match="DETR, RT-DETR and D-FINE, not Linear: give score="):
        ImageLosses(model)
