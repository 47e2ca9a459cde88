"""A script whose hyperparameters are searched for, on one process or, with an argument, on several."""

import copy
import os
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset


class LitBase(pl.LightningModule):
    def __init__(self, learning_rate, weight_decay=0.0):
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self):
        return torch.optim.AdamW(
            self.parameters(), lr=self.hparams.learning_rate, weight_decay=self.hparams.weight_decay
        )


class Layers(pl.LightningModule):
    """A part of the model, whose ``hidden`` is not the one that is searched for."""

    def __init__(self, hidden):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(5, hidden), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(hidden, 1)
        )

    def forward(self, inputs):
        return self.layers(inputs)


class LitModel(LitBase):
    def __init__(self, hidden=4, **of_optimizer):
        super().__init__(**of_optimizer)
        self.save_hyperparameters()
        self.layers = Layers(hidden=hidden + 1)

    def loss(self, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(self.layers(inputs), targets)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))


class LitData(pl.LightningDataModule):
    def __init__(self, batch_size=8):
        super().__init__()
        self.save_hyperparameters()
        inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
        self.dataset = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.dataset, batch_size=10)

    def test_dataloader(self):
        return DataLoader(self.dataset, batch_size=10)


def processes(trainer):
    names = ("is_global_zero", "global_rank", "local_rank", "node_rank", "world_size", "num_nodes")
    return {name: getattr(trainer, name) for name in names}


if __name__ == "__main__":
    pl.seed_everything(7)
    several = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": True} if "several" in sys.argv else {}
    searched = {"hidden": 8, "learning_rate": 0.1, "batch_size": 4} if "searched" in sys.argv else {}
    data = LitData(**{name: searched.pop(name) for name in ["batch_size"] if name in searched})
    model = LitModel(**{"hidden": 6, "learning_rate": 0.5, **searched})
    trainer = pl.Trainer(
        max_epochs=3,
        val_check_interval=0.5,
        log_every_n_steps=1,
        accelerator="cpu",
        callbacks=[ModelCheckpoint(monitor="val_loss"), LearningRateMonitor()],
        logger=CSVLogger("logs"),
        profiler="simple",
        **several,
    )
    before = processes(trainer)
    trainer.fit(model, data)
    results = {
        "processes": (before, processes(trainer)),
        "weights": copy.deepcopy(model.state_dict()),
        "hparams": dict(model.hparams),
        "data": dict(data.hparams),
        "random": torch.get_rng_state(),
        "metrics": dict(trainer.callback_metrics),
        "logged": dict(trainer.logged_metrics),
        "best": trainer.checkpoint_callback.best_model_score,
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
    }
    if not several:
        results["test"] = trainer.test(datamodule=data, ckpt_path="best")
        best = LitModel.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
        results["best_weights"] = best.state_dict()
    else:
        # The first process writes it, and all find it.
        trainer.save_checkpoint("own.ckpt")
        results["own"] = LitModel.load_from_checkpoint("own.ckpt").state_dict()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            os.rename("own.ckpt", "renamed.ckpt")
        results["one device"] = processes(pl.Trainer(devices=1, accelerator="cpu", logger=False))
    torch.save(results, f"results-{os.environ.get('LOCAL_RANK', 0)}.pt")
