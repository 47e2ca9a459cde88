"""A model that says which hooks of its end were called."""

import os
import threading

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class LitModel(pl.LightningModule):
    def __init__(self, learning_rate=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(3, 1)
        self.calls = []
        self.is_profiled = False

    def loss(self, batch):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def on_validation_end(self):
        self.calls.append(("on_validation_end", self.global_step))

    def on_train_epoch_end(self):
        self.calls.append(("on_train_epoch_end", self.global_step))

    def on_train_end(self):
        # Determined's thread that records the load of the machine.
        self.is_profiled = any(type(thread).__qualname__ == "_Collector" for thread in threading.enumerate())
        self.calls.append(("on_train_end", self.global_step))

    def on_fit_end(self):
        self.calls.append(("on_fit_end", self.global_step))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class LitData(pl.LightningDataModule):
    """Six batches for an epoch of one process."""

    def loader(self, shuffle=False):
        inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=4, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(shuffle=True)

    def val_dataloader(self):
        return self.loader()

    test_dataloader = val_dataloader


def save(model, trainer, **values):
    """Saves what a test looks at."""
    results = {
        "weights": model.state_dict(),
        "calls": model.calls,
        "should_stop": trainer.should_stop,
        "epoch": trainer.current_epoch,
        **values,
    }
    torch.save(results, f"results-{os.environ.get('RANK', 0)}.pt")
