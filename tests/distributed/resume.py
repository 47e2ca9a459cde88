"""Trains every loader on the processes that torchrun has started, and again from each checkpoint: ``resume.py FILE``.

Writes, rank by rank, what each training has ended with, by loader and by the batches before the checkpoint.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from determined import pytorch
from torch.utils.data import DataLoader

import lightning_shim
from tests.distributed.sampling import ByItself, Sizes
from tests.resume.conftest import Seen, checkpoints
from tests.resume.test_loaders import SAMPLES, Module, Noisy, noisy


class Sized(Sizes):
    """Can be made anew outside of a hook."""

    def __init__(self, sampler: Any, batch_size: int = 1, drop_last: bool = False) -> None:
        super().__init__([batch_size + 1, batch_size - 1, batch_size], sampler)
        self.batch_size = batch_size


LOADERS: dict[str, Callable[[], DataLoader[Any] | pytorch.DataLoader]] = {
    "shuffle": lambda: noisy(shuffle=True),
    "workers": lambda: noisy(shuffle=True, num_workers=1, persistent_workers=True),
    "own sampler": lambda: noisy(sampler=ByItself(SAMPLES)),
    "batch sampler": lambda: DataLoader(Noisy(12), batch_sampler=Sized(range(12), batch_size=2)),
    "Determined's": lambda: pytorch.DataLoader(Noisy(), batch_size=3, shuffle=True),
    "Determined's with workers": lambda: pytorch.DataLoader(
        Noisy(), batch_size=3, sampler=ByItself(SAMPLES), num_workers=1, persistent_workers=True
    ),
}


def train(make: Callable[[], Any], folder: Path, seed: int, **options: Any) -> dict[str, Any]:
    os.environ["PL_TRAINER_DEFAULT_ROOT_DIR"] = str(folder)
    seen = Seen()
    trial = lightning_shim.fit(
        Module, make(), noisy(), max_length=pytorch.Epoch(2), callbacks=[seen], seed=seed, **options
    )
    return {
        "weights": trial.module.state_dict(),
        "batches": seen.batches,
        "random": [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()],
    }


def train_from_everywhere(name: str, make: Callable[[], Any]) -> dict[int, dict[str, Any]]:
    folder = Path.cwd() / name
    ended = {0: train(make, folder, 0, checkpoint_period=pytorch.Batch(1))}
    torch.distributed.barrier()
    for batches, checkpoint in checkpoints(folder).items():
        # Everything that matters has to come from the checkpoint.
        ended[batches] = train(make, folder / "resumed", 100, latest_checkpoint=checkpoint, checkpoint_policy="none")
    return ended


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    with lightning_shim.patched():
        saved = {name: train_from_everywhere(name, make) for name, make in LOADERS.items()}
    torch.distributed.destroy_process_group()
    torch.save(saved, f"{sys.argv[1]}.{os.environ['RANK']}")
