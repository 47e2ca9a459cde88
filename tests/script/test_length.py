"""A script's training ends, and validates, where Lightning's does: the loop decides, no length is fixed beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lightning_shim
from lightning_shim.diagnostics.errors import ConfigurationError

BATCHES = 5


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(BATCHES * 3.0).view(-1, 3) / 10)


class StreamOfAWrongLength(Stream):
    def __len__(self) -> int:
        return BATCHES + 3


class Recorded(pl.LightningModule):
    """A module that writes down where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.events: list[tuple[Any, ...]] = []
        self.reacts: Callable[[str], Any] = lambda event: None

    def note(self, event: str) -> Any:
        trainer = self.trainer
        self.events.append((event, trainer.current_epoch, trainer.global_step, trainer.fit_loop.epoch_loop.batch_idx))
        return self.reacts(event)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.note("validation_step")

    def on_train_start(self) -> None:
        self.note("on_train_start")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return self.note("on_train_batch_start")

    def on_train_epoch_end(self) -> None:
        self.note("on_train_epoch_end")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def loader() -> DataLoader[Any]:
    return DataLoader(torch.arange(BATCHES * 3.0).view(-1, 3) / 10)


def stream() -> DataLoader[Any]:
    return DataLoader(Stream())


def stream_of_a_wrong_length() -> DataLoader[Any]:
    return DataLoader(StreamOfAWrongLength())


def ends_the_epoch(module: Recorded) -> Callable[[str], Any]:
    return lambda event: -1 if event == "on_train_batch_start" and module.events[-1][3] == 2 else None


def stops_at(step: int) -> Callable[[Recorded], Callable[[str], Any]]:
    def reacts(module: Recorded) -> Callable[[str], Any]:
        def react(event: str) -> None:
            if module.global_step >= step:
                module.trainer.should_stop = True

        return react

    return reacts


class TakesItsBatches(Recorded):
    def training_step(self, dataloader_iter: Iterator[Any]) -> torch.Tensor:  # type: ignore[override]
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


def takes_its_batches(module: Recorded) -> Callable[[str], Any]:
    module.__class__ = TakesItsBatches
    return module.reacts


def goes_on_longer(module: Recorded) -> Callable[[str], Any]:
    def react(event: str) -> None:
        if event == "on_train_epoch_end" and module.current_epoch == 1:
            module.trainer.fit_loop.max_epochs = 3

    return react


CASES: dict[str, tuple[Any, ...]] = {
    "epochs of a stream": (stream, {"max_epochs": 2}),
    "steps of a stream": (stream, {"max_steps": 7}),
    "epochs before steps": (stream, {"max_epochs": 1, "max_steps": 8}),
    "steps of epochs that end early": (loader, {"max_steps": 7}, ends_the_epoch),
    "accumulated steps of epochs that end early": (
        loader,
        {"max_steps": 4, "accumulate_grad_batches": 2},
        ends_the_epoch,
    ),
    "epochs that end early": (loader, {"max_epochs": 3, "val_check_interval": 2}, ends_the_epoch),
    "a length that is too large": (stream_of_a_wrong_length, {"max_steps": 12}),
    "epochs of a length that is too large": (stream_of_a_wrong_length, {"max_epochs": 2}),
    "a limit that is too large": (stream, {"max_steps": 12, "limit_train_batches": BATCHES + 2}),
    "interval in a stream": (stream, {"max_steps": 12, "val_check_interval": 3}),
    "interval of all epochs of a stream": (
        stream,
        {"max_steps": 12, "val_check_interval": 3, "check_val_every_n_epoch": None},
    ),
    "every other epoch of a stream": (stream, {"max_epochs": 4, "check_val_every_n_epoch": 2}),
    "a stop that the minimum puts off": (
        loader,
        {"min_epochs": 2, "max_epochs": 4, "check_val_every_n_epoch": 3},
        stops_at(2),
    ),
    "a stop within an epoch": (loader, {"max_epochs": 4}, stops_at(2)),
    "a stop before the first batch": (loader, {"max_epochs": 4}, stops_at(0)),
    "a stop before the first batch with a minimum": (loader, {"max_epochs": 4, "min_steps": 3}, stops_at(0)),
    "no epochs": (loader, {"max_epochs": 0}),
    "interval of steps that take their batches": (
        loader,
        {"max_epochs": 2, "val_check_interval": 2},
        takes_its_batches,
    ),
    "more epochs than at first": (loader, {"max_epochs": 2}, goes_on_longer),
}


def trained(
    make_loader: Callable[[], Any],
    arguments: dict[str, Any],
    reaction: Callable[[Recorded], Any] | None = None,
    **fit_arguments: Any,
) -> tuple[Any, list[Any]]:
    torch.manual_seed(0)
    module = Recorded()
    if reaction is not None:
        module.reacts = reaction(module)
    trainer = pl.Trainer(
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"limit_val_batches": 1, "num_sanity_val_steps": 0, **arguments},
    )
    trainer.fit(module, make_loader(), DataLoader(TensorDataset(torch.ones(1, 3))), **fit_arguments)
    return trainer, [*module.events, trainer.current_epoch, trainer.global_step]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("case", CASES)
def test_trains_and_validates_as_lightning_does(in_folder: Path, case: str) -> None:
    expected = trained(*CASES[case])[1]
    with lightning_shim.patched(trainer=True):
        assert trained(*CASES[case])[1] == expected


def test_goes_on_after_max_steps_within_an_epoch(in_folder: Path) -> None:
    def steps(folder: str) -> list[Any]:
        trainer, _ = trained(loader, {"max_steps": 2})
        trainer.save_checkpoint(f"{folder}.ckpt")
        return trained(loader, {"max_steps": 6}, ckpt_path=f"{folder}.ckpt")[1]

    with pytest.warns(UserWarning, match="resuming from a checkpoint that ended before the epoch ended"):
        expected = steps("lightning")
    with (
        lightning_shim.patched(trainer=True),
        pytest.warns(UserWarning, match="resuming from a checkpoint that ended before the epoch ended"),
    ):
        assert steps("ours") == expected


@pytest.mark.parametrize(("make_loader", "interval"), [(loader, BATCHES + 1), (stream, 0.5)])
def test_interval_that_cannot_be_kept(in_folder: Path, make_loader: Callable[[], Any], interval: Any) -> None:
    with (
        lightning_shim.patched(trainer=True),
        pytest.raises(ConfigurationError, match=r"test_length\.py:\d+") as raised,
    ):
        trained(make_loader, {"max_epochs": 1, "val_check_interval": interval})
    assert "val_check_interval" in str(raised.value)
    assert str(interval) in str(raised.value)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_values_of_the_last_batch_where_a_loader_runs_out(compared: Any) -> None:
    class Logs(Recorded):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.log("batches", float(batch_idx))

        def on_train_epoch_end(self) -> None:
            self.events.append(("metrics", float(self.trainer.callback_metrics["batches"])))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def script() -> Any:
        module = Logs()
        arguments = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **arguments)
        loaders = [DataLoader(data, batch_size=None) for data in (StreamOfAWrongLength(), Stream())]
        trainer.fit(module, *loaders)
        return [event for event in module.events if event[0] == "metrics"]

    assert compared(script) == [("metrics", BATCHES - 1.0)] * 2
