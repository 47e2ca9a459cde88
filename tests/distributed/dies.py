"""A training in which one process comes to an end: ``dies.py HOW RANK``; -1 is every rank."""

from __future__ import annotations

import os
import sys
from typing import Any

import determined
import torch
from determined import pytorch

import lightning_shim
from lightning_shim.trial import processes
from tests.parity.modules import Regression, loaders

how, which = sys.argv[1], int(sys.argv[2])


class Dies(Regression):
    def __init__(self) -> None:
        super().__init__()
        if how == "InvalidHP when built" and which == int(os.environ["RANK"]):
            raise determined.InvalidHP("the layers do not fit")

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if how == "raise":
            self.die()
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        # The others wait for Determined's report, where nothing tells them that somebody is missing.
        self.die()

    def die(self) -> None:
        if self.global_step < 2 or which not in (-1, self.global_rank):
            return
        if how == "raise":
            raise ValueError("the batch is bad")
        if how == "InvalidHP":
            raise determined.InvalidHP("the loss explodes")
        if how == "sys.exit":
            sys.exit()
        if how.startswith("os._exit"):
            os._exit(int(how.removeprefix("os._exit ")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes.PATIENCE = 3.0
    with lightning_shim.patched():
        lightning_shim.fit(Dies, **loaders(), max_length=pytorch.Epoch(9), reporting_period=pytorch.Batch(2))
    print("trained to the end")
