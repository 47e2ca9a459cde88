"""Steps that take the loaders' iterator in place of a batch, a flavour of Lightning 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.loops.fetchers import _DataFetcherWrapper
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_shim import ConfigurationError
from tests.parity.combined import Stream
from tests.parity.modules import Regression, dataset, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.parity.runs import run_determined_by
from tests.support.recording import Recording

pytestmark = [
    pytest.mark.versions,
    # Lightning's own warnings of this flavour.
    pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument in the `(training|validation)_step`"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
]

Batches = Iterator[tuple[list[Tensor], int, int]]


class Iterating(Regression):
    """Takes its batches itself, one in a step."""

    def training_step(self, dataloader_iter: Batches) -> Tensor:
        batch, batch_idx, _ = next(dataloader_iter)
        return self.trained(batch, batch_idx)

    def trained(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of a batch and logs it; Lightning does not know the batch's size."""
        loss = self.loss(batch)
        self.log_dict({"loss": loss, "index": batch_idx}, on_step=True, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, dataloader_iter: Batches) -> None:
        batch, _, dataloader_idx = next(dataloader_iter)
        self.log_dict({"val_loss": self.loss(batch), "val_loader": dataloader_idx}, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if not self.automatic_optimization:
            return optimizer
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        decay = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return [optimizer], [{"scheduler": plateau, "monitor": "loss_epoch"}, decay]


class Asks(Iterating):
    """Looks at what it gets, as NeMo's modules do."""

    def training_step(self, dataloader_iter: Batches) -> Tensor:
        assert isinstance(dataloader_iter, _DataFetcherWrapper)
        return super().training_step(dataloader_iter)


class Several(Iterating):
    """Trains on several batches at once, so that an epoch has fewer steps than batches."""

    batches = 2

    def training_step(self, dataloader_iter: Batches) -> Tensor:
        taken = [next(dataloader_iter) for _ in range(self.batches)]
        return self.trained(
            [torch.cat(parts) for parts in zip(*(batch for batch, _, _ in taken), strict=True)], taken[-1][1]
        )


class Four(Several):
    """Its second step asks in vain for the seventh batch: that is the end of the epoch."""

    batches = 4


class OneAhead(Iterating):
    """Has a batch in hand while it trains on another."""

    def training_step(self, dataloader_iter: Batches) -> Tensor:
        if dataloader_iter.fetched == 0:
            self.ahead = next(dataloader_iter)
        (batch, batch_idx, _), self.ahead = self.ahead, next(dataloader_iter)
        return self.trained(batch, batch_idx)


class Sometimes(Iterating):
    """Takes no batch in every second step; an epoch has no more steps than batches all the same."""

    def training_step(self, dataloader_iter: Batches) -> Tensor:
        if self.global_step % 2 == 0:
            self.last = next(dataloader_iter)
        return self.trained(*self.last[:2])


class ByHand(Iterating):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, dataloader_iter: Batches) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(dataloader_iter))
        optimizer.step()


class Stops(Regression):
    """Takes batches as usual, and ends its epochs as an iterator does."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        if batch_idx == 3:
            raise StopIteration
        return super().training_step(batch, batch_idx)


def of_two() -> dict[str, Any]:
    """Makes two loaders for validation."""
    return loaders() | {"val_dataloaders": [DataLoader(dataset(count, seed=4), batch_size=4) for count in (10, 6)]}


def run_both(case: Case, mocker: MockerFixture) -> None:
    """Runs a case on both sides and compares."""
    assert_equal(run_lightning(case), run_determined(case, mocker))


def forget_steps(*recordings: Recording) -> None:
    """Leaves out the steps of what was logged: Determined counts steps as well that were not taken to the end."""
    for recording in recordings:
        recording.logged = {0: [entry for values in recording.logged.values() for entry in values]}


@pytest.mark.parametrize("module", [Iterating, Asks, ByHand])
def test_one_batch_in_a_step(mocker: MockerFixture, module: type) -> None:
    run_both(Case(module, loaders), mocker)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Several, {}),
        (OneAhead, {}),
        (Sometimes, {}),
        # Determined validates at the end of each epoch, Lightning does not validate one that ended within a step.
        (Four, {"limit_val_batches": 0}),
        (Stops, {"limit_val_batches": 0}),
    ],
)
def test_other_numbers_of_batches_in_a_step(mocker: MockerFixture, module: type, options: dict[str, Any]) -> None:
    case = Case(module, loaders, options=options)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    forget_steps(lightning, determined)
    assert_equal(lightning, determined)


def test_accumulation(mocker: MockerFixture) -> None:
    case = Case(Iterating, loaders, options={"accumulate_grad_batches": 4})
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Lightning logs under the number of steps, Determined under the number of batches.
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


def test_limits(mocker: MockerFixture) -> None:
    run_both(Case(Iterating, loaders, options={"limit_val_batches": 1, "limit_train_batches": 4}), mocker)


def test_validation_period_in_batches(mocker: MockerFixture) -> None:
    """Lightning validates at the end of each epoch besides."""
    run_both(Case(Iterating, loaders, validation=4), mocker)


def test_validation_loaders(mocker: MockerFixture) -> None:
    run_both(Case(Iterating, of_two), mocker)


def test_loader_without_a_length(mocker: MockerFixture) -> None:
    data = lambda: {**loaders(), "train_dataloaders": DataLoader(Stream(), batch_size=4)}  # noqa: E731
    case = Case(Iterating, data, options={"limit_val_batches": 0})
    # In each epoch the seventh step finds that there are no more batches.
    lightning, determined = run_lightning(case), run_determined_by(case, mocker, pytorch.Batch(3 * 7))
    forget_steps(lightning, determined)
    assert_equal(lightning, determined)


class Once(IterableDataset[Any]):
    """A stream that can be read once, or has nothing in it."""

    def __init__(self, batches: int) -> None:
        self.left = list(dataset(4 * batches))

    def __iter__(self) -> Any:
        while self.left:
            yield self.left.pop()


@pytest.mark.parametrize(
    ("batches", "message"),
    [(0, "gave an empty loader: it has no batches"), (2, "gave no batches in epoch 1: can it be iterated")],
)
def test_stream_without_batches(mocker: MockerFixture, batches: int, message: str) -> None:
    """Lightning trains nothing and says nothing."""
    data = lambda: {**loaders(), "train_dataloaders": DataLoader(Once(batches), batch_size=4)}  # noqa: E731
    case = Case(Iterating, data, options={"limit_val_batches": 0})
    with pytest.raises(ConfigurationError, match=message):
        run_determined_by(case, mocker, pytorch.Batch(8))
