"""In which order a checkpoint is taken over: as in Lightning, however a training is started from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch

import lightning_shim
from lightning_shim import CheckpointError
from tests.parity.oracle import assert_same
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.tiny import tiny

pytestmark = pytest.mark.usefixtures("patched")

Event = tuple[str, int, int]

EPOCHS = 3


def loader() -> Any:
    inputs = torch.linspace(-1, 1, 48).reshape(-1, 3)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=4)


class Recorded:
    """A module, a callback and a data module that record what is called when, with epoch and step at that time."""

    def __init__(self, lightning: ModuleType) -> None:
        self.events: list[Event] = []
        self.module = self._module(lightning)
        self.callback = self._callback(lightning)
        self.datamodule = self._datamodule(lightning)

    def add(self, event: str) -> None:
        trainer = self.module._trainer
        self.events.append((event, *((trainer.current_epoch, trainer.global_step) if trainer else (0, 0))))

    def spied(self, owner: Any, name: str) -> Any:
        """Has calls of ``load_state_dict`` recorded."""
        base = type(owner)

        def load_state_dict(owner: Any, state: Any) -> None:
            self.add(f"{name}.load_state_dict")
            base.load_state_dict(owner, state)

        owner.__class__ = type(base.__name__, (base,), {"load_state_dict": load_state_dict})
        return owner

    def _module(self, lightning: ModuleType) -> Any:
        recorded = self

        class Module(tiny(lightning)):
            def setup(self, stage: str) -> None:
                recorded.add("module.setup")

            def configure_model(self) -> None:
                recorded.add("module.configure_model")

            def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                recorded.add("module.on_load_checkpoint")
                # As those do that grow, prune or quantise: the parameters are others than before.
                self.layer = torch.nn.Linear(3, 1)

            def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
                recorded.add("module.load_state_dict")
                return super().load_state_dict(*args, **kwargs)

            def configure_optimizers(self) -> Any:
                recorded.add("module.configure_optimizers")
                optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
                scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
                return [recorded.spied(optimizer, "optimizer")], [recorded.spied(scheduler, "scheduler")]

            def on_fit_start(self) -> None:
                recorded.add("module.on_fit_start")

            def on_train_start(self) -> None:
                recorded.add("module.on_train_start")

        return Module()

    def _callback(self, lightning: ModuleType) -> Any:
        recorded = self

        class Callback(lightning.Callback):  # type: ignore[name-defined,misc]
            def setup(self, trainer: Any, module: Any, stage: str) -> None:
                recorded.add("callback.setup")

            def state_dict(self) -> dict[str, Any]:
                return {"some": "state"}

            def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
                recorded.add("callback.on_load_checkpoint")

            def load_state_dict(self, state: dict[str, Any]) -> None:
                recorded.add("callback.load_state_dict")

            def on_fit_start(self, trainer: Any, module: Any) -> None:
                recorded.add("callback.on_fit_start")

            def on_train_start(self, trainer: Any, module: Any) -> None:
                recorded.add("callback.on_train_start")

        return Callback()

    def _datamodule(self, lightning: ModuleType) -> Any:
        recorded = self

        class Data(lightning.LightningDataModule):  # type: ignore[name-defined,misc]
            def setup(self, stage: str) -> None:
                recorded.add("datamodule.setup")

            def state_dict(self) -> dict[str, Any]:
                return {"some": "state"}

            def load_state_dict(self, state: dict[str, Any]) -> None:
                recorded.add("datamodule.load_state_dict")

            def train_dataloader(self) -> Any:
                recorded.add("datamodule.train_dataloader")
                return loader()

        return Data()

    @property
    def end(self) -> Any:
        trainer = self.module.trainer
        return self.module.state_dict(), [optimizer.state_dict() for optimizer in trainer.optimizers]


def by_lightning(lightning: ModuleType, ckpt_path: Any) -> Recorded:
    recorded = Recorded(lightning)
    torch.manual_seed(1)
    fit_by_lightning(
        lightning,
        recorded.module,
        datamodule=recorded.datamodule,
        callbacks=[recorded.callback],
        max_epochs=EPOCHS,
        ckpt_path=ckpt_path,
    )
    return recorded


def by_fit(lightning: ModuleType, epochs: int = EPOCHS, **options: Any) -> Recorded:
    recorded = Recorded(lightning)
    torch.manual_seed(1)
    lightning_shim.fit(
        recorded.module,
        datamodule=recorded.datamodule,
        callbacks=[recorded.callback],
        max_length=pytorch.Epoch(epochs),
        checkpoint_policy="none",
        **options,
    )
    return recorded


def by_trial(lightning: ModuleType, folder: Path, **trial_options: Any) -> Recorded:
    recorded = Recorded(lightning)
    torch.manual_seed(1)
    with pytorch.init() as context:
        trial = lightning_shim.LightningTrial(
            context,
            recorded.module,
            datamodule=recorded.datamodule,
            callbacks=[recorded.callback],
            max_length=pytorch.Epoch(EPOCHS),
            **trial_options,
        )
        pytorch.Trainer(trial, context).fit(
            max_length=pytorch.Epoch(EPOCHS), latest_checkpoint=str(folder), checkpoint_policy="none"
        )
    return recorded


@pytest.fixture
def checkpoint(lightning: ModuleType) -> Path:
    """The folder of a trial's checkpoint, after an epoch."""
    recorded = Recorded(lightning)
    trial = lightning_shim.fit(
        recorded.module,
        datamodule=recorded.datamodule,
        callbacks=[recorded.callback],
        max_length=pytorch.Epoch(1),
    )
    return Path(str(trial.checkpoint_path))


WAYS: dict[str, Callable[[ModuleType, Path], Recorded]] = {
    "ckpt_path": lambda lightning, folder: by_fit(lightning, ckpt_path=folder / "state_dict.pth"),
    "latest_checkpoint": lambda lightning, folder: by_fit(lightning, latest_checkpoint=folder),
    "a trial of one's own": lambda lightning, folder: by_trial(lightning, folder, latest_checkpoint=str(folder)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_order_is_lightnings(
    lightning: ModuleType, checkpoint: Path, way: Callable[[ModuleType, Path], Recorded]
) -> None:
    expected = by_lightning(lightning, checkpoint / "state_dict.pth")
    actual = way(lightning, checkpoint)
    assert [event for event, _, _ in actual.events] == [event for event, _, _ in expected.events]
    assert_same(actual.end, expected.end)
    assert (
        actual.events[-2:]
        == expected.events[-2:]
        == [("callback.on_train_start", 1, 4), ("module.on_train_start", 1, 4)]
    )


def test_epoch_is_known_as_in_lightning(lightning: ModuleType, checkpoint: Path) -> None:
    """A loader may depend on it. After a pause it is asked for as it was before it, in epoch 0."""
    expected = by_lightning(lightning, checkpoint / "state_dict.pth").events
    assert by_fit(lightning, ckpt_path=checkpoint / "state_dict.pth").events == expected
    assert ("datamodule.train_dataloader", 1, 4) in expected
    paused = by_fit(lightning, latest_checkpoint=checkpoint).events
    assert ("datamodule.train_dataloader", 0, 0) in paused


def test_weights_are_read_once(lightning: ModuleType, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = torch.load

    def recording_load(file: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(Path(file).name)
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", recording_load)
    by_fit(lightning, latest_checkpoint=checkpoint)
    assert read == ["state_dict.pth"]
    assert torch.load is recording_load


def test_trial_has_to_know_the_checkpoint(lightning: ModuleType, checkpoint: Path) -> None:
    """It would be loaded when the optimizers are there."""
    with pytest.raises(CheckpointError, match=r"LightningTrial\(context, module, latest_checkpoint=...\)"):
        by_trial(lightning, checkpoint)
