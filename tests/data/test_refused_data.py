"""Loaders and data modules that cannot be trained on are refused before training."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_shim import ConfigurationError
from tests.support.namespaces import NAMESPACES
from tests.support.places import place_in
from tests.support.refusals import FIT_CALL, refuse, train, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class Stream(IterableDataset[Any]):
    """Data without a length."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randn(self.samples, 1, 3))


def stream(samples: int = 16) -> DataLoader[Any]:
    return DataLoader(Stream(samples), batch_size=4)


WRONG_LOADERS: dict[str, tuple[Callable[[ModuleType], Any], str]] = {
    "object": (lambda lightning: object(), "what cannot be iterated. An invalid dataloader was"),
    "number": (lambda lightning: 4, "what cannot be iterated. An invalid dataloader was"),
    "list with a number": (lambda lightning: [loader(), 4], "what cannot be iterated. An invalid dataloader was"),
    "empty dataset": (lambda lightning: loader(0), r"an empty loader.*Is the dataset empty"),
    "empty list": (lambda lightning: [], "empty|what cannot"),
    "drop_last": (lambda lightning: loader(3, drop_last=True), r"smaller than the batch size with drop_last=True"),
    "one of several is empty": (lambda lightning: [loader(), loader(0)], "an empty loader"),
    "empty stream": (lambda lightning: stream(0), "empty"),
    "sequential": (
        lambda lightning: importlib.import_module(f"{lightning.__name__}.utilities").CombinedLoader(
            [loader()], "sequential"
        ),
        '`FitLoop` does not support the .*"sequential".*"max_size_cycle"',
    ),
}


class TestData:
    def test_no_training_loader(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):  # here: no training loader
            pass

        module = Module()
        message = refuse(ConfigurationError, module)
        assert message.startswith(f"{place('no training loader')}: `train_dataloader` must be implemented")
        assert "implement `def train_dataloader(self):` in " in message
        trains(module)

    def test_datamodule_without_training_loader(self, pl: ModuleType) -> None:
        class DataModule(pl.LightningDataModule):  # here: datamodule without training loader
            def val_dataloader(self) -> Any:
                return loader()

        module = tiny(pl)()
        message = refuse(ConfigurationError, module, datamodule=DataModule())
        assert "implement `def train_dataloader(self):` in " in message
        assert place("datamodule without training loader") in message, "it is the data module that lacks it"
        trains(module)

    @pytest.mark.parametrize(("make", "expected"), WRONG_LOADERS.values(), ids=WRONG_LOADERS)
    def test_argument(self, pl: ModuleType, make: Callable[[ModuleType], Any], expected: str) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, make(pl))
        assert "train_dataloaders " in message
        assert re.search(expected, message)
        assert FIT_CALL in message
        trains(module)

    @pytest.mark.parametrize(
        ("make", "expected"),
        [*WRONG_LOADERS.values(), (lambda lightning: None, r"returned from `Module.train_dataloader\(\)`. Found None")],
        ids=[*WRONG_LOADERS, "None"],
    )
    def test_hook(self, lightning: ModuleType, make: Callable[[ModuleType], Any], expected: str) -> None:
        class Module(tiny(lightning)):
            def train_dataloader(self) -> Any:  # here: train_dataloader
                return make(lightning)

        module = Module()
        message = refuse(ConfigurationError, module)
        assert message.startswith(f"{place('train_dataloader')}: train_dataloader ")
        assert re.search(expected, message)
        trains(module)

    @pytest.mark.parametrize("make", [lambda: None, lambda: loader(0)], ids=["None", "empty"])
    def test_hook_of_the_datamodule(self, lightning: ModuleType, make: Callable[[], Any]) -> None:
        class DataModule(lightning.LightningDataModule):
            def train_dataloader(self) -> Any:  # here: train_dataloader of the datamodule
                return make()

        module, datamodule = tiny(lightning)(), DataModule()
        message = refuse(ConfigurationError, module, datamodule=datamodule)
        assert message.startswith(place("train_dataloader of the datamodule"))
        datamodule.train_dataloader = loader
        module.steps = 0
        train(module, datamodule=datamodule)
        assert module.steps == 1

    def test_validation_hook_returns_none(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

            def val_dataloader(self) -> None:  # here: val_dataloader
                return None

        message = refuse(ConfigurationError, Module(), loader())
        assert message.startswith(f"{place('val_dataloader')}: val_dataloader gave what cannot be iterated.")

    def test_validation_loader_cannot_be_iterated(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        message = refuse(ConfigurationError, Module(), loader(), object())
        assert "val_dataloaders gave" in message
        assert FIT_CALL in message

    @pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")
    @pytest.mark.parametrize("argument", ["train_dataloaders", "val_dataloaders"])
    def test_datamodule_together_with_loaders(self, pl: ModuleType, argument: str) -> None:
        datamodule = pl.LightningDataModule.from_datasets(TensorDataset(torch.randn(16, 3)), batch_size=4)
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, datamodule=datamodule, **{argument: loader()})
        assert "pass either a datamodule, or train_dataloaders and val_dataloaders" in message
        assert FIT_CALL in message
        train(module, datamodule=datamodule)

    def test_datamodule_is_none(self, lightning: ModuleType) -> None:
        class Data:
            def train_dataloader(self) -> Any:
                return loader()

        module = tiny(lightning)()
        message = refuse(ConfigurationError, module, datamodule=Data())
        assert message.startswith(f"{FIT_CALL}: datamodule is a ")
        assert "Data, which is not a " in message
        assert "Loaders are passed as train_dataloaders" in message
        trains(module)

    def test_loader_in_the_place_of_the_datamodule(self, pl: ModuleType) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), datamodule=loader())
        assert "datamodule is a DataLoader, which is not a pytorch_lightning" in message
        assert "Loaders are passed as train_dataloaders" in message
        assert FIT_CALL in message

    def test_datamodule_of_the_other_package(self, lightning: ModuleType) -> None:
        (other,) = set(NAMESPACES) - {lightning.__name__}
        datamodule = importlib.import_module(other).LightningDataModule()
        message = refuse(ConfigurationError, tiny(lightning)(), datamodule=datamodule)
        assert "module and data module have to come from the same package" in message

    def test_stream_with_a_length_in_epochs(self, pl: ModuleType) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, stream(), max_length=pytorch.Epoch(1))
        assert "train_dataloaders gave a loader without a length" in message
        assert "max_length and the periods as determined.pytorch.Batch(n)" in message
        assert FIT_CALL in message
        trains(module, stream())

    @pytest.mark.parametrize("period", ["validation_period", "checkpoint_period", "reporting_period"])
    def test_stream_with_a_period_in_epochs(self, pl: ModuleType, period: str) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), stream(), **{period: pytorch.Epoch(1)})
        assert "a loader without a length" in message

    def test_iterator_that_is_used_up(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def on_train_epoch_start(self) -> None:
                if self.current_epoch > 20:
                    raise RuntimeError("epochs without batches go on for ever")

        with pytest.raises(ConfigurationError, match="train_dataloaders"):
            train(Module(), (batch for batch in list(loader())), max_length=pytorch.Batch(6))

    @pytest.mark.parametrize("option", ["limit_train_batches", "limit_val_batches"])
    @pytest.mark.parametrize("value", [-1, -0.5, 1.5, 2.0, "all"], ids=repr)
    def test_limit(self, pl: ModuleType, option: str, value: Any) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, loader(), **{option: value})
        assert f"{option}={value!r} makes no sense; it is a number of batches, or a fraction of them" in message
        assert FIT_CALL in message
        trains(module)

    def test_limit_leaves_nothing(self, pl: ModuleType) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), loader(), limit_train_batches=0.1)
        assert "gave 4 batches. You requested to check 0.1 of the `train_dataloader` but 0.1 * 4 < 1." in message
        assert "Try at least `limit_train_batches=0.25`" in message
        assert FIT_CALL in message

    def test_limit_of_zero_is_named(self, pl: ModuleType) -> None:
        assert "limit_train_batches=0" in refuse(ConfigurationError, tiny(pl)(), loader(), limit_train_batches=0)

    def test_fraction_of_a_stream(self, pl: ModuleType) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), stream(), limit_train_batches=0.5)
        assert "`Trainer(limit_train_batches)` must be `1.0` or an int, not 0.5" in message
        assert FIT_CALL in message
