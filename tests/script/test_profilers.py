"""A profiler in a script's Trainer measures the actions that Lightning's own Trainer measures, as often."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from tests.script.test_trainer_object import ARGUMENTS, Module, loader

# The trial asks for the first by itself, has no hooks of a strategy, and writes a checkpoint of Determined's as well.
NOT_COMPARED = ("configure_callbacks", "Strategy.on_", "on_save_", ".state_dict")


class Scheduled(Module):
    """Has a scheduler, and measures an action of its own."""

    def on_train_batch_start(self, *args: Any) -> None:
        with self.trainer.profiler.profile("mine"):
            pass

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Data(pl.LightningDataModule):
    """Has loaders, and a state."""

    def prepare_data(self) -> None:
        """Nothing is to be downloaded."""

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader(2)


class Counts(Profiler):
    """A user's own profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[str] = []

    def start(self, action_name: str) -> None:
        self.actions.append(action_name)

    def stop(self, action_name: str) -> None:
        self.actions.append(f"end of {action_name}")


def counted(profiler: Any) -> dict[str, int]:
    if isinstance(profiler, Counts):
        counts = {name: profiler.actions.count(name) for name in profiler.actions}
    else:
        counts = {name: len(durations) for name, durations in profiler.recorded_durations.items()}
    return {name: count for name, count in counts.items() if not any(part in name for part in NOT_COMPARED)}


@pytest.mark.lightning(">=2.6")  # Older Trainers measure some of the actions otherwise.
@pytest.mark.parametrize("make", [lambda: "simple", SimpleProfiler, Counts])
def test_actions_are_lightnings(compared: Any, caplog: pytest.LogCaptureFixture, make: Any) -> None:
    def script() -> Any:
        caplog.clear()
        arguments = {**ARGUMENTS, "enable_checkpointing": True, "callbacks": [pl.Callback(), ModelCheckpoint("own")]}
        trainer = pl.Trainer(**arguments, profiler=make())
        module = Scheduled()
        with caplog.at_level(logging.INFO):
            trainer.fit(module, datamodule=Data())
        report = [message for message in caplog.messages if "Profiler Report" in message]
        return counted(trainer.profiler), module.state_dict(), len(report), torch.get_rng_state()

    counts = compared(script)[0]
    assert len(counts) > 60
    assert counts["mine"] == 8


def test_files_are_lightnings(compared: Any) -> None:
    def script() -> Any:
        profilers = [
            AdvancedProfiler("profile", "advanced"),
            SimpleProfiler(filename="simple"),
            PyTorchProfiler("profile", "pytorch", export_to_chrome=False, schedule=None),
        ]
        for profiler in profilers:
            trainer = pl.Trainer(**ARGUMENTS, profiler=profiler)
            trainer.fit(Module(), loader(), loader(2))
        texts = [Path(name).read_text() for name in ("profile/fit-advanced.txt", "fit-simple.txt")]
        return sorted(map(str, Path().rglob("*"))), all("run_training_batch" in text for text in texts)

    assert compared(script)[1]
