"""The steps under which a trial logs that goes on from a checkpoint: those of the training that was not interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torch.utils.data import DataLoader

import lightning_shim
from tests.support.lightning_trainer import QUIET
from tests.support.recording import Recording, recording_logger
from tests.support.tiny import tiny

pytestmark = pytest.mark.usefixtures("patched")

EPOCHS, LENGTH = 3, 6

Logged = list[tuple[int, str]]
"""Under which step which name was logged."""


def loaders() -> dict[str, Any]:
    data = torch.linspace(-1, 1, LENGTH * 3).reshape(-1, 1, 3)
    return {"train_dataloaders": DataLoader(data), "val_dataloaders": DataLoader(data[:2])}


def module_class(lightning: ModuleType) -> type:
    class Module(tiny(lightning)):
        ends_early = False

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.ends_early and batch_idx == 4 else None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("each", loss)
            self.log("all", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", batch.mean())

    return Module


def logged(recording: Recording) -> Logged:
    return [(step, name) for step, values in recording.logged.items() for name, _ in values]


def by_lightning(lightning: ModuleType, accumulate: int, period: int | None, **options: Any) -> Logged:
    ckpt_path = options.pop("ckpt_path", None)
    recording = Recording()
    if period is not None:
        options |= {"val_check_interval": period, "check_val_every_n_epoch": None}
    options |= {"logger": recording_logger(lightning.loggers.Logger, recording), "log_every_n_steps": 1}
    trainer = lightning.Trainer(**{**QUIET, **options, "max_epochs": EPOCHS, "accumulate_grad_batches": accumulate})
    trainer.fit(module_class(lightning)(), **loaders(), ckpt_path=ckpt_path)
    return logged(recording)


def by_fit(lightning: ModuleType, accumulate: int, period: int | None, **options: Any) -> Logged:
    recording = Recording()
    module = options.pop("module", None) or module_class(lightning)()
    lightning_shim.fit(
        module,
        **loaders(),
        max_length=pytorch.Epoch(EPOCHS),
        validation_period=None if period is None else pytorch.Batch(period),
        reporting_period=pytorch.Batch(1),
        logger=recording_logger(lightning.loggers.Logger, recording),
        accumulate_grad_batches=accumulate,
        checkpoint_policy="none",
        **options,
    )
    return logged(recording)


def saving(lightning: ModuleType, hook: str, batch: int) -> Any:
    """Makes a callback that saves a checkpoint in a hook, the first time that it is called in or after a batch."""

    def save(trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == batch and not Path("saved.ckpt").exists():
            trainer.save_checkpoint("saved.ckpt")

    return type("Saving", (lightning.Callback,), {hook: lambda self, *args: save(*args)})()


@pytest.fixture(params=[1, 2], ids=["each batch steps", "accumulating"])
def accumulate(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# Older Trainers repeat or lose a part of the epoch if they go on from a checkpoint of a batch's hooks.
@pytest.mark.lightning(">=2.5")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
class TestFromLightning:
    @pytest.mark.parametrize(
        ("hook", "batch", "period"),
        [
            ("on_train_batch_start", 2, None),
            ("on_train_batch_start", 5, None),
            ("on_train_batch_end", 1, None),
            ("on_train_batch_end", 2, 3),
            ("on_validation_start", 2, 3),
            ("on_validation_end", 2, 3),
            ("on_train_batch_end", 5, None),
            ("on_validation_end", 5, None),
            ("on_train_epoch_end", 5, None),
        ],
    )
    def test_steps_are_lightnings(
        self, lightning: ModuleType, accumulate: int, hook: str, batch: int, period: int | None
    ) -> None:
        by_lightning(lightning, accumulate, period, callbacks=[saving(lightning, hook, batch)])
        expected = by_lightning(lightning, accumulate, period, ckpt_path="saved.ckpt")
        assert by_fit(lightning, accumulate, period, ckpt_path="saved.ckpt") == expected
        assert (5, "each") in expected or accumulate > 1 or batch == 5


@pytest.mark.lightning(">=2.5")  # before, an epoch that goes on is repeated or lost in part
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize("go_on", [by_lightning, by_fit], ids=["Lightning", "Determined"])
def test_from_every_checkpoint_of_a_trial(
    lightning: ModuleType, tmp_path: Path, accumulate: int, period: int | None, go_on: Callable[..., Logged]
) -> None:
    whole = by_fit(lightning, accumulate, period, checkpoint_period=pytorch.Batch(1))
    assert sorted(whole) == sorted(by_lightning(lightning, accumulate, period))
    for file in Path(tmp_path).rglob("metadata.json"):
        batches = json.loads(file.read_text())["steps_completed"]
        if batches < EPOCHS * LENGTH:
            resumed = go_on(lightning, accumulate, period, ckpt_path=file.parent / "state_dict.pth")
            assert resumed == whole[len(whole) - len(resumed) :], f"after {batches}"


def test_validation_of_an_epoch_that_ended_early(lightning: ModuleType) -> None:
    """It is logged under the step under which the epoch's own values are."""
    module = module_class(lightning)()
    module.ends_early = True
    values = by_fit(lightning, 1, None, module=module)
    assert [step for step, name in values if name == "val"] == [3, 7, 11]
    assert [step for step, name in values if name == "all"] == [3, 7, 11]
