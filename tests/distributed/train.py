"""Trains on the processes that torchrun has started: ``train.py SIDE FILE``; rank by rank into FILE."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
import torch
from determined import pytorch

import lightning_shim
from tests.parity.modules import Regression, loaders

OPTIONS: dict[str, Any] = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}


class Synchronised(Regression):
    """Logs with and without synchronisation, and asks for what the processes have in common."""

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("synchronised", loss, on_step=False, on_epoch=True, sync_dist=True)
        self.log("rank", float(self.global_rank))
        return loss

    def on_train_epoch_end(self) -> None:
        ranks = self.all_gather(torch.tensor(float(self.global_rank)))
        assert ranks.tolist() == [0.0, 1.0]
        assert self.trainer.strategy.reduce(torch.tensor(float(self.global_rank)), reduce_op="sum") == 1.0
        assert self.trainer.strategy.broadcast(self.global_rank) == 0


def train_with_determined() -> Any:
    with lightning_shim.patched():
        trial = lightning_shim.fit(Synchronised, **loaders(), max_length=pytorch.Epoch(2), seed=0, **OPTIONS)
    return trial.module, trial.trainer


class StopsOnOneProcess(Synchronised):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_rank == 0 and self.global_step == 2:
            self.trainer.should_stop = True


def stop_with_determined() -> Any:
    with lightning_shim.patched():
        length = {"max_length": pytorch.Epoch(9), "reporting_period": pytorch.Batch(2)}
        trial = lightning_shim.fit(StopsOnOneProcess, **loaders(), seed=0, **length)
    return trial.module, trial.trainer


def train_with_lightning() -> Any:
    pl.seed_everything(0)
    module = Synchronised()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **OPTIONS,
    )
    trainer.fit(module, **loaders())
    return module, trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, file = sys.argv[1:]
    sides = {"determined": train_with_determined, "stopping": stop_with_determined, "lightning": train_with_lightning}
    module, trainer = sides[side]()
    result = {
        "weights": module.state_dict(),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "global_step": trainer.global_step,
    }
    torch.save(result, f"{file}.{trainer.global_rank}")
