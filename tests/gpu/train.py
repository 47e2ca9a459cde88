"""Trains under Lightning or Determined on two GPUs. torchrun starts it: train.py WHO FILE OPTIONS, the last as JSON.

Rank 0 writes the file, and each rank another one, with its rank at the end, that says which GPUs it has used.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from determined import pytorch
from torch import Tensor

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.support.lightning_trainer import NO_SANITY_CHECK, fit_by_lightning

ACCELERATOR = "gpu"


class LogsNumbers(Regression):
    """Logs a number of its own on each process, which NCCL has to reduce on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("rank", 1.0 + self.global_rank, on_step=True, on_epoch=True, sync_dist=True)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append({"rank": self.trainer.callback_metrics["rank"].item()})

    def on_train_epoch_end(self) -> None:
        self.seen.append({"rank_epoch": self.trainer.callback_metrics["rank_epoch"].item()})


def main(who: str, file: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    module = LogsNumbers()
    checkpoint = None
    if who == "lightning":
        trainer = fit_by_lightning(
            pl, module, **loaders(), accelerator=ACCELERATOR, devices=2, strategy="ddp", max_epochs=2, **options
        )
        is_first = trainer.is_global_zero
    else:
        with lightning_shim.patched():
            periods = {"max_length": pytorch.Epoch(2), "checkpoint_policy": "none"}
            trial = lightning_shim.fit(module, **loaders(), **periods, **NO_SANITY_CHECK, **options)
        is_first, checkpoint = trial.trainer.is_global_zero, str(trial.checkpoint_path)
    # PyTorch's own tests ask by this name whether the process has used a GPU.
    used = [torch._C._cuda_hasPrimaryContext(index) for index in range(torch.cuda.device_count())]
    Path(f"{file}.{os.environ['RANK']}").write_text(json.dumps(used))
    if is_first:
        torch.save({"weights": module.state_dict(), "seen": module.seen, "checkpoint": checkpoint}, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
