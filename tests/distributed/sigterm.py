"""A script that gets SIGTERM: rank 0 after its second batch, rank 1 after its third."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from tests.support.lightning_trainer import QUIET
from tests.support.tiny import tiny


class Saves(pl.Callback):
    """Saves when an error ends the training, as OnExceptionCheckpoint does."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        trainer.save_checkpoint("on_exception.ckpt")
        print(f"rank {trainer.global_rank}: {type(exception).__name__} after {trainer.global_step}", flush=True)


def train(kills_after: int, samples: int) -> None:
    class Killed(tiny(pl)):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step == kills_after:
                os.kill(os.getpid(), signal.SIGTERM)

    data = DataLoader(TensorDataset(torch.ones(samples, 3)))
    trainer = pl.Trainer(**QUIET, max_epochs=2, log_every_n_steps=4, callbacks=[Saves()])
    trainer.fit(Killed(), data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with lightning_shim.patched(trainer=True):
        train(kills_after=2 + int(os.environ["RANK"]), samples=12)
    print("trained to the end")
