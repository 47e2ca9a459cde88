"""An error of a script's ``fit`` is told to callbacks, data module and loggers wherever it comes from, and survived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import OnExceptionCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from tests.script.test_trainer_object import ARGUMENTS, Module, attributes, loader


class Witness(pl.Callback):
    """A callback that saves what is there when an error comes."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        is_users = isinstance(exception, ZeroDivisionError)
        self.seen.append((is_users, pl_module is trainer.lightning_module, str(trainer.state.status)))
        trainer.save_checkpoint("error.ckpt")


class Data(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.errors = 0

    def train_dataloader(self) -> Any:
        return loader()

    def on_exception(self, exception: BaseException) -> None:
        self.errors += 1


class Finalized(CSVLogger):
    status: str | None = None

    def finalize(self, status: str) -> None:
        self.status = status
        super().finalize(status)


def fails() -> Any:
    raise ZeroDivisionError


def with_method(name: str, method: Callable[[Any], Any]) -> Any:
    return type("Failing", (Module,), {name: method})()


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "checkpoint that is not there": (Module, {"ckpt_path": "best"}),
    "callbacks": (lambda: with_method("configure_callbacks", lambda module: fails()), {}),
    "optimizers": (lambda: with_method("configure_optimizers", lambda module: fails()), {}),
    "optimizers that know the length": (
        lambda: with_method(
            "configure_optimizers", lambda module: module.trainer.estimated_stepping_batches and fails()
        ),
        {},
    ),
    "setup": (lambda: with_method("setup", lambda module, stage: fails()), {}),
    "interval of validation": (Module, {"val_check_interval": 9}),
    "training loader": (lambda: with_method("on_train_start", lambda module: fails()), {}),
}


@pytest.mark.lightning(">=2.3")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("case", CASES)
def test_whoever_is_told(compared: Any, case: str) -> None:
    make, arguments = CASES[case]

    def script() -> Any:
        module, data, witness, logger = make(), Data(), Witness(), Finalized("logs")
        of_trainer = {name: value for name, value in arguments.items() if name != "ckpt_path"}
        trainer = pl.Trainer(**{**ARGUMENTS, "logger": logger, **of_trainer}, callbacks=[witness], log_every_n_steps=1)
        data.val_dataloader = lambda: loader(2)  # type: ignore[method-assign]
        with pytest.raises((ZeroDivisionError, ValueError)):
            trainer.fit(module, datamodule=data, ckpt_path=arguments.get("ckpt_path"))
        saved = torch.load("error.ckpt", weights_only=False)
        after = {name: value for name, value in attributes(trainer).items() if name != "estimated_stepping_batches"}
        return [
            witness.seen,
            data.errors,
            logger.status,
            (saved["epoch"], saved["global_step"], saved["loops"]),
            after,
            module.trainer is trainer,
            trainer.datamodule is data,
        ]

    seen = compared(script)
    assert seen[1:3] == [1, "failed"]


@pytest.mark.lightning(">=2.6")
@pytest.mark.filterwarnings("ignore:.*was called without a model", "ignore:.*there is no last checkpoint available")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_training_goes_on_from_an_exception_checkpoint(compared: Any) -> None:
    def script() -> Any:
        results = []
        for batch in (6, None):
            torch.manual_seed(0)
            steps: list[int] = []

            def act(hook: str, module: Any, steps: list[int] = steps, batch: int | None = batch) -> None:
                if hook == "training_step":
                    steps.append(module.global_step)
                    if len(steps) == batch:
                        fails()

            module = Module(act)
            trainer = pl.Trainer(
                **{**ARGUMENTS, "num_sanity_val_steps": 0, "enable_checkpointing": True},
                callbacks=[OnExceptionCheckpoint(".")],
            )
            try:
                # The batches are all the same: Lightning would train on the first ones again.
                trainer.fit(module, DataLoader(TensorDataset(torch.ones(4, 3))), loader(2))
            except ZeroDivisionError:
                assert Path("on_exception.ckpt").is_file()
            results.append((steps, Path(trainer.ckpt_path or "").name, attributes(trainer), module.state_dict()))
        return results

    first, second = compared(script)
    assert (first[0][-1], second[0][0]) == (5, 5)
    assert second[1] == "on_exception.ckpt"
