"""Modules that somebody else wrote: those that Lightning ships."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from pytorch_lightning.demos.boring_classes import (
    BoringDataModule,
    BoringModel,
    DemoModel,
    ManualOptimBoringModel,
    RandomDataset,
)
from pytorch_lightning.demos.transformer import LightningTransformer
from torch.utils.data import DataLoader

from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


def no_data() -> dict[str, Any]:
    return {}


def boring_datamodule() -> dict[str, Any]:
    return {"datamodule": BoringDataModule()}


def random_data() -> dict[str, Any]:
    return {"train_dataloaders": DataLoader(RandomDataset(32, 24), batch_size=4)}


class Transformer(LightningTransformer):
    """The transformer of the demonstration, over made-up text: its own would be downloaded."""

    def __init__(self) -> None:
        super().__init__(vocab_size=50)

    def prepare_data(self) -> None:
        pass

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(1)
        pairs = torch.randint(0, 50, (8, 2, 12), generator=generator)
        return DataLoader([(inputs, targets) for inputs, targets in pairs], batch_size=2)


@pytest.mark.filterwarnings("ignore:.*test_.* is ignored")
@pytest.mark.filterwarnings("ignore:.*predict_.* is ignored")
@pytest.mark.parametrize(
    ("module", "data"),
    [
        (BoringModel, no_data),
        (BoringModel, boring_datamodule),
        (ManualOptimBoringModel, no_data),
        (DemoModel, random_data),
        (Transformer, no_data),
    ],
    ids=lambda value: value.__name__,
)
def test_demo(mocker: MockerFixture, module: type, data: Any) -> None:
    case = Case(module, data, max_epochs=2, every_hook=False)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    if issubclass(module, BoringModel):
        # It logs nothing in validation, but returns a number, which a trial reports.
        assert lightning.logged == {}
        assert [[name for name, _ in values] for values in determined.logged.values()] == [["x"], ["x"]]
        determined.logged = {}
    assert_equal(lightning, determined)
