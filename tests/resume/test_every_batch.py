"""A trial that is killed after any of its checkpoints, and continued, ends as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.utils.data import DataLoader

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, Recording, assert_same, run_determined


def checkpoints(folder: Path) -> dict[int, Path]:
    """Returns the checkpoints in Determined's local storage by the number of batches trained."""
    return {
        json.loads(file.read_text())["steps_completed"]: file.parent
        for file in folder.glob("determined/*/metadata.json")
    }


class WithState(Regression):
    """Has a state in everything that a checkpoint has to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.error = torchmetrics.MeanAbsoluteError()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        self.error(self(inputs), targets)
        self.log("error", self.error, on_step=True, on_epoch=True)
        self.log("largest", self.loss(batch), on_epoch=True, reduce_fx="max")
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        decay = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.9)
        return [optimizer], [{"scheduler": plateau, "monitor": "val_loss"}, {"scheduler": decay, "interval": "step"}]


class Manual(WithState):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.9)]


def after(recording: Recording, batches: int) -> dict[int, Any]:
    return {step: values for step, values in recording.logged.items() if step >= batches}


@pytest.mark.parametrize(
    ("module", "options", "loader_options", "validation"),
    [
        (WithState, {}, {}, None),
        (WithState, {"accumulate_grad_batches": 4}, {}, None),
        (Manual, {}, {}, None),
        (WithState, {}, {"num_workers": 2, "persistent_workers": True}, None),
        # The first epoch ends without a validation.
        (WithState, {}, {}, 4),
    ],
    ids=["automatic", "accumulating", "manual", "data workers", "validation between"],
)
def test_every_checkpoint(
    mocker: MockerFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    module: type,
    options: dict[str, Any],
    loader_options: dict[str, Any],
    validation: int | None,
) -> None:
    case = Case(module, lambda: loaders(**loader_options), max_epochs=2, options=options, validation=validation)
    folder = tmp_path_factory.mktemp("uninterrupted")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    whole = run_determined(case, mocker, checkpoint_period=pytorch.Batch(1))
    written = checkpoints(folder)
    assert sorted(written) == list(range(1, 13))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("resumed")))
    for batches, checkpoint in sorted(written.items()):
        # Another seed: everything that matters has to come from the checkpoint.
        case.seed = 100 + batches
        resumed = run_determined(case, mocker, latest_checkpoint=checkpoint)
        assert_same(resumed.weights, whole.weights, f"weights after {batches}")
        assert_same(resumed.optimizers, whole.optimizers, f"optimizers after {batches}")
        assert_same(resumed.schedulers, whole.schedulers, f"schedulers after {batches}")
        assert_same(resumed.random_state, whole.random_state, f"random state after {batches}")
        assert (resumed.global_step, resumed.current_epoch) == (whole.global_step, whole.current_epoch)
        assert_same(after(resumed, batches), after(whole, batches), f"logged after {batches}")
        assert_same(resumed.callback_metrics, whole.callback_metrics, f"metrics after {batches}")


class EndsEpochsEarly(Regression):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 2 + self.current_epoch else None


def own_generators() -> dict[str, Any]:
    data = loaders()
    generator = torch.Generator().manual_seed(5)
    dataset = data["train_dataloaders"].dataset
    data["train_dataloaders"] = DataLoader(dataset, batch_size=4, shuffle=True, generator=generator)
    return data


@pytest.mark.parametrize(
    ("module", "data"),
    [(EndsEpochsEarly, loaders), (Regression, own_generators)],
    ids=["epochs cut short", "generator"],
)
def test_what_is_easily_forgotten(
    mocker: MockerFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    module: type,
    data: Any,
) -> None:
    case = Case(module, data, max_epochs=3)
    folder = tmp_path_factory.mktemp("uninterrupted")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    whole = run_determined(case, mocker, checkpoint_period=pytorch.Batch(1))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("resumed")))
    for batches, checkpoint in sorted(checkpoints(folder).items()):
        case.seed = 100 + batches
        resumed = run_determined(case, mocker, latest_checkpoint=checkpoint)
        assert_same(resumed.weights, whole.weights, f"weights after {batches}")
        assert_same(resumed.random_state, whole.random_state, f"random state after {batches}")
        assert_same(after(resumed, batches), after(whole, batches), f"logged after {batches}")
