"""A trial that asks for other loaders every few epochs goes on with those that it had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from tests.parity.modules import Regression
from tests.parity.oracle import Case
from tests.parity.test_reloading import BecomesShorter, Reloads, of_epoch
from tests.resume.conftest import Resumes
from tests.resume.test_loaders import Module, noisy


class Data(pl.LightningDataModule):
    """Gives the same loader, whose workers run on, time and again."""

    def setup(self, stage: str) -> None:
        self.train = noisy(shuffle=True, num_workers=1, persistent_workers=True)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.train

    def val_dataloader(self) -> DataLoader[Any]:
        return noisy()


class Shards(pl.LightningDataModule):
    """Gives the next samples each time, and keeps in a checkpoint which it has given; in a list that it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    def train_dataloader(self) -> DataLoader[Any]:
        self.given.append(1 + sum(self.given))
        return of_epoch(sum(self.given), samples=10)

    def val_dataloader(self) -> DataLoader[Any]:
        return of_epoch(sum(self.given), samples=4, shuffle=False)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


class ChangesShards(Regression):
    """Changes within an epoch what comes next."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trainer.datamodule.given.append(batch_idx)


@pytest.mark.filterwarnings("ignore:You have overridden `.*` in:UserWarning")
@pytest.mark.parametrize(
    ("module", "data", "period", "epochs", "validation"),
    [
        (Reloads, dict, 2, 4, 8),
        (BecomesShorter, dict, 1, 3, 9),
        (Module, lambda: {"datamodule": Data()}, 1, 2, 2),
        (Regression, lambda: {"datamodule": Shards()}, 1, 3, 3),
        (ChangesShards, lambda: {"datamodule": Shards()}, 2, 4, 3),
    ],
    ids=["every other epoch", "shorter epochs", "workers", "shards", "shards that change"],
)
def test_every_checkpoint(
    resumes: Resumes, module: type, data: Callable[[], Any], period: int, epochs: int, validation: int
) -> None:
    options = {"reload_dataloaders_every_n_epochs": period}
    # Epochs end without a validation as well, the last one with one.
    case = Case(module, data, max_epochs=epochs, options=options, every_hook=False, validation=validation)
    resumes.everywhere(case)
