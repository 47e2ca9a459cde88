"""Trains from every checkpoint of another number of processes: ``other_size.py FOLDER``.

It does so for each of ``KINDS``, in a folder of its own below FOLDER, and writes there what each rank has ended with.
Without checkpoints it writes those, one after each batch.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from determined import pytorch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lightning_shim
from tests.parity.modules import Regression, dataset
from tests.resume.conftest import checkpoints

SAMPLES, BATCH_SIZE, EPOCHS = 20, 4, 2
KINDS = {
    "epochs": {"max_length": pytorch.Epoch(EPOCHS)},
    "stream": {"max_length": pytorch.Batch(8), "validation_period": pytorch.Batch(5)},
}
"""How long which loader trains."""


class Indexed(Regression):
    """Its samples say which ones they are; the rate of its optimizer follows steps. Keeps the ranks that trained it."""

    def __init__(self) -> None:
        super().__init__()
        self.ranks: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.ranks.append(self.global_rank)
        return super().training_step(batch[:2], batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"},
        ]


class Stream(IterableDataset[Any]):
    """The samples of one process, of which nobody knows the number."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Any:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        return (self.data[index] for index in range(rank, SAMPLES, size))


def loader(kind: str) -> DataLoader[Any]:
    data = TensorDataset(*dataset(SAMPLES).tensors, torch.arange(SAMPLES))
    if kind == "stream":
        return DataLoader(Stream(data), batch_size=BATCH_SIZE)
    return DataLoader(data, batch_size=BATCH_SIZE, shuffle=True)


class Seen(pl.Callback):
    """What the module has when training starts, and what it is trained on."""

    def __init__(self) -> None:
        self.at_start: dict[str, Any] = {}
        self.batches: list[tuple[int, int, list[int]]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not self.batches:
            self.at_start = copy.deepcopy(
                {
                    "state_dict": module.state_dict(),
                    "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
                    "lr_schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
                    "global_step": trainer.global_step,
                }
            )
        self.batches.append((trainer.current_epoch, batch_idx, batch[2].tolist()))

    def state_dict(self) -> dict[str, Any]:
        """Says that there is nothing to be kept: what was seen is this training's."""
        return {}


def train(kind: str, **options: Any) -> dict[str, Any]:
    seen = Seen()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trial = lightning_shim.fit(
            Indexed,
            loader(kind),
            DataLoader(dataset(8, seed=4), batch_size=BATCH_SIZE),
            **KINDS[kind],
            callbacks=[seen],
            seed=0,
            **options,
        )
    return {
        "at_start": seen.at_start,
        "batches": seen.batches,
        "warnings": [str(entry.message) for entry in caught if "is continued with" in str(entry.message)],
        "weights": trial.module.state_dict(),
        "ranks": trial.module.ranks,
        "epoch": trial.trainer.current_epoch,
        "global_step": trial.trainer.global_step,
        "metrics": trial.metrics,
        "batches_trained": trial.controller.batches_trained,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in KINDS:
        folder = Path(sys.argv[1], kind)
        os.environ["PL_TRAINER_DEFAULT_ROOT_DIR"] = str(folder)
        written = checkpoints(folder)
        with lightning_shim.patched():
            if not written:
                train(kind, checkpoint_period=pytorch.Batch(1))
            else:
                os.environ["PL_TRAINER_DEFAULT_ROOT_DIR"] = str(folder / "continued")
                ended = {
                    batches: train(kind, latest_checkpoint=checkpoint, checkpoint_policy="none")
                    for batches, checkpoint in written.items()
                }
                torch.save(ended, folder / f"ended.{os.environ.get('RANK', 0)}")
