"""A module that is slow enough to be paused, says which weights it has, and may kill its process."""

import hashlib
import os
import signal
import time

import determined as det
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


def digest(weights):
    """A name for weights: the same on every machine, if they are the same."""
    joined = b"".join(weights[name].detach().cpu().numpy().tobytes() for name in sorted(weights))
    return hashlib.sha256(joined).hexdigest()


class LitModel(pl.LightningModule):
    """Args: seconds: of each batch; killed_rank: the rank that kills itself in the first run of the trial, if any."""

    def __init__(self, learning_rate=0.1, seconds=0.0, killed_rank=-1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(3, 1)
        self.batches_seen = 0

    def loss(self, batch):
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def on_train_start(self):
        self.say("weights at the start")

    def training_step(self, batch, batch_idx):
        self.batches_seen += 1
        loss = self.loss(batch)
        # Of random numbers too, which a pause must not change.
        self.log_dict({"train_loss": loss, "noise": torch.rand(()), "batches_seen": float(self.batches_seen)})
        return loss

    def on_train_batch_end(self, *args):
        time.sleep(self.hparams.seconds)
        info = det.get_cluster_info()
        is_first_run = info is not None and info.trial._steps_completed == 0
        # In the second epoch; the first has left a checkpoint.
        is_due = self.global_step == LitData.batches + 2
        if is_first_run and is_due and self.global_rank == self.hparams.killed_rank:
            os.kill(os.getpid(), signal.SIGKILL)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), sync_dist=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch), sync_dist=True)

    def on_test_start(self):
        # Of each rank, since each loads the checkpoint.
        print(f"rank {self.global_rank} tests {digest(self.state_dict())}", flush=True)

    def on_fit_end(self):
        self.say("weights at the end")

    def say(self, what):
        if self.global_rank == 0:
            print(f"{what}: {digest(self.state_dict())}", flush=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    if "REFUSED" in os.environ:

        def configure_apex(self, amp, model, optimizers, amp_level):
            return model, optimizers


class LitData(pl.LightningDataModule):
    """Ten batches for an epoch of each process."""

    batches = 10

    def loader(self, shuffle=False):
        samples = 4 * self.batches * int(os.environ.get("WORLD_SIZE", 1))
        inputs = torch.randn(samples, 3, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=4, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader(shuffle=True)

    def val_dataloader(self):
        return self.loader()

    test_dataloader = val_dataloader
