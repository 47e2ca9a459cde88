"""A trial that asks for other loaders every few epochs goes on with those that it had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from torch.utils.data import DataLoader

from tests.parity.oracle import Case
from tests.parity.test_reloading import BecomesShorter, Reloads
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


@pytest.mark.filterwarnings("ignore:You have overridden `.*` in:UserWarning")
@pytest.mark.parametrize(
    ("module", "data", "period", "epochs", "validation"),
    [(Reloads, dict, 2, 4, 8), (BecomesShorter, dict, 1, 3, 9), (Module, lambda: {"datamodule": Data()}, 1, 2, 2)],
    ids=["every other epoch", "shorter epochs", "workers"],
)
def test_every_checkpoint(
    resumes: Resumes, module: type, data: Callable[[], Any], period: int, epochs: int, validation: int
) -> None:
    options = {"reload_dataloaders_every_n_epochs": period}
    # Epochs end without a validation as well, the last one with one.
    case = Case(module, data, max_epochs=epochs, options=options, every_hook=False, validation=validation)
    resumes.everywhere(case)
