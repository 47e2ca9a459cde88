"""Trains in a process of its own: ``train.py FOLDER BATCH SIGNAL``; rank by rank, into FOLDER.

After the checkpoint of batch BATCH the process sends itself SIGNAL; none if BATCH is 0. It goes on from the last
checkpoint in FOLDER, if there is one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from determined import pytorch

import lightning_shim
from tests.resume.conftest import Seen, checkpoints
from tests.resume.test_every_batch import WithState
from tests.resume.test_loaders import noisy

IS_RESUMED = False
OPTIONS: dict[str, Any] = {"accumulate_grad_batches": 2}


class Module(WithState):
    """Draws from every generator between the batches, one of its own among them, and keeps a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        # A batch may have one sample.
        self.layers[1] = torch.nn.Identity()
        self.generator = random.Random(os.environ.get("RANK", "0"))
        self.drawn: list[float] = []
        if IS_RESUMED:
            # Everything that matters has to come from the checkpoint.
            torch.rand(3), np.random.rand(), random.random()

    def loss(self, batch: Any) -> torch.Tensor:
        self.drawn.append(self.generator.random())
        noise = random.random() + float(np.random.rand()) + self.drawn[-1] + self.drawn[0]
        return super().loss(batch[:2]) * (1 + 0.01 * noise)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


class Kill(pl.Callback):
    """Ends the process when the next batch has been trained, before its checkpoint is written."""

    def __init__(self, after: int, number: int) -> None:
        self.after, self.number = after, number
        self.trained = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.trained += 1
        if self.trained == self.after + 1:
            os.kill(os.getpid(), self.number)
            signal.pause()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, after, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["PL_TRAINER_DEFAULT_ROOT_DIR"] = str(folder)
    os.chdir(folder)
    written = checkpoints(folder)
    seen = Seen()
    IS_RESUMED = bool(written)
    with lightning_shim.patched():
        trial = lightning_shim.fit(
            Module,
            noisy(shuffle=True, num_workers=2),
            noisy(num_workers=2),
            max_length=pytorch.Epoch(2),
            checkpoint_period=pytorch.Batch(1),
            latest_checkpoint=written[max(written)] if written else None,
            seed=0,
            callbacks=[seen, *([Kill(after, number)] if after else [])],
            **OPTIONS,
        )
    result = {
        "weights": trial.module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trial.trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trial.trainer.lr_scheduler_configs],
        "metrics": {name: float(value) for name, value in trial.trainer.callback_metrics.items()},
        "batches": seen.batches,
        "count": seen.count,
        "drawn": trial.module.drawn,
        "random": [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()],
    }
    torch.save(result, folder / f"result.{trial.trainer.global_rank}")
