"""Trains every scenario on the processes that torchrun has started: ``train.py SIDE FILE``; rank by rank into FILE."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from determined import pytorch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

import lightning_shim
from tests.distributed.scenarios import (
    REFUSED,
    SCENARIOS,
    BringsBatchesOfFour,
    Scenario,
    StopsOnOneProcess,
    no_train_loaders,
)
from tests.parity.modules import loaders


def train_with_determined(scenario: Scenario, folder: Path) -> dict[str, Any]:
    options = dict(scenario.options)
    if scenario.find_unused_parameters and scenario.theirs is None:
        options["find_unused_parameters"] = True
    # Whoever imports Lightning before the processes know their ranks has a wrong one here.
    rank_zero_only.rank = 7
    trial = lightning_shim.fit(
        scenario.module,
        **scenario.data(),
        max_length=pytorch.Epoch(scenario.epochs),
        reporting_period=pytorch.Batch(1),
        callbacks=scenario.callbacks(folder),
        checkpoint_policy="none",
        num_sanity_val_steps=0,
        seed=0,
        **options,
    )
    return results(trial.module, trial.metrics, folder)


def train_with_lightning(scenario: Scenario, folder: Path) -> dict[str, Any]:
    pl.seed_everything(0)
    module = (scenario.theirs or scenario.module)()
    callbacks = scenario.callbacks(folder)
    strategy = "ddp_find_unused_parameters_true" if scenario.find_unused_parameters else "ddp"
    trainer = pl.Trainer(
        max_epochs=scenario.epochs,
        accelerator="cpu",
        devices=2,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=callbacks,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"strategy": strategy, **scenario.options},
    )
    trainer.fit(module, **scenario.data())
    return results(module, trainer.logged_metrics, folder)


def results(module: Any, reported: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    trainer = module.trainer
    return {
        "weights": module.state_dict(),
        "trained": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "reported": {name: torch.tensor(float(value)) for name, value in reported.items()},
        "global_step": trainer.global_step,
        "facts": module.facts,
        "callbacks": [without_folder(callback.state_dict(), folder) for callback in trainer.callbacks],
        "files": sorted(path.name for path in folder.glob("*")),
    }


def without_folder(state: Any, folder: Path) -> Any:
    """Takes the name of a folder, which each side has its own of, out of a callback's state."""
    if isinstance(state, dict):
        return {without_folder(key, folder): without_folder(value, folder) for key, value in state.items()}
    return state.replace(str(folder), "") if isinstance(state, str) else state


def error_of(train: Callable[[Scenario, Path], Any], scenario: Scenario, folder: Path) -> tuple[str, str]:
    """The kind of error with which a training ends, and what it says."""
    try:
        train(scenario, folder)
    except Exception as error:
        return type(error).__name__, str(error)
    raise AssertionError("nothing was refused")


def stop_one_process() -> int:
    """When both have stopped, which is not when Lightning does."""
    length = {"max_length": pytorch.Epoch(9), "reporting_period": pytorch.Batch(2)}
    return int(lightning_shim.fit(StopsOnOneProcess, **loaders(), seed=0, **length).trainer.global_step)


def warnings_about_the_batch_size(global_batch_size: int) -> list[str]:
    """What a process says if the hyperparameters have a ``global_batch_size``; the loader has batches of four."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lightning_shim.fit(
            BringsBatchesOfFour,
            **no_train_loaders(),
            hparams={"global_batch_size": global_batch_size},
            max_length=pytorch.Batch(1),
            checkpoint_policy="none",
        )
    ours = [warning for warning in caught if issubclass(warning.category, lightning_shim.LightningShimWarning)]
    return [f"{warning.filename}:{warning.lineno}: {warning.category.__name__}: {warning.message}" for warning in ours]


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, file = sys.argv[1:]
    folder = Path(f"{file}.files")
    train = {"determined": train_with_determined, "lightning": train_with_lightning}[side]
    with lightning_shim.patched():
        saved: dict[str, Any] = {name: train(scenario, folder / name) for name, scenario in SCENARIOS.items()}
        if side == "determined":
            saved["stopped"] = stop_one_process()
            saved["global_batch_size"] = {size: warnings_about_the_batch_size(size) for size in (4, 8)}
        saved["timeout"] = (
            torch.distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout
        )
        saved["refused"] = {name: error_of(train, scenario, folder) for name, scenario in REFUSED.items()}
    torch.save(saved, f"{file}.{os.environ['RANK']}")
