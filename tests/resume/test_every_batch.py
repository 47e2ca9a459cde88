"""A trial that is killed after any of its checkpoints, and continued, ends as if nothing had happened."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.utils.data import DataLoader

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case
from tests.resume.conftest import Resumes


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
    resumes: Resumes,
    module: type,
    options: dict[str, Any],
    loader_options: dict[str, Any],
    validation: int | None,
) -> None:
    case = Case(module, lambda: loaders(**loader_options), max_epochs=2, options=options, validation=validation)
    assert resumes.everywhere(case, every_other_of=6 if loader_options else None) == list(range(1, 13))


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
def test_what_is_easily_forgotten(resumes: Resumes, module: type, data: Any) -> None:
    resumes.everywhere(Case(module, data, max_epochs=3))
