"""When validation runs, over which loaders, and in which mode it leaves the module."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities.data import warning_cache
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from tests.parity.modules import Regression, dataset, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


# An interval that does not divide an epoch, and one that is longer.
@pytest.mark.parametrize("interval", [1, 2, 3, 6, 9, 18])
def test_every_n_batches(mocker: MockerFixture, interval: int) -> None:
    case = Case(Regression, loaders, validation=interval)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class SeveralLoaders(Regression):
    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int) -> None:
        loss = self.loss(batch)
        self.log("val_loss", loss)
        self.log(f"val_loss_of_{dataloader_idx}", loss, add_dataloader_idx=False, prog_bar=True)


def several_loaders() -> dict[str, Any]:
    validation = [DataLoader(dataset(samples, seed=samples), batch_size=4) for samples in (10, 5, 8)]
    return {**loaders(), "val_dataloaders": validation}


@pytest.mark.parametrize("limit", [1.0, 1])
def test_several_loaders(mocker: MockerFixture, limit: float) -> None:
    case = Case(SeveralLoaders, several_loaders, options={"limit_val_batches": limit}, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class TellsLoaders(Regression):
    """Its index of a loader has a default, so that it works with one loader as well as with several."""

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 7) -> None:
        self.log("val_loss", self.loss(batch))
        self.log("val_loader", float(dataloader_idx))
        self.log("inference", float(torch.is_inference_mode_enabled()))


def short() -> DataLoader[Any]:
    return DataLoader(dataset(8, seed=8), batch_size=4)


def shorter() -> DataLoader[Any]:
    return DataLoader(dataset(5, seed=5), batch_size=4)


def distributed(samples: int) -> DataLoader[Any]:
    """Has the sampler that several processes would need."""
    return DataLoader(dataset(samples), batch_size=4, sampler=DistributedSampler(dataset(samples), 1, 0))


IN_TURN: dict[str, Callable[[], Any]] = {
    "dictionary": lambda: {"a": short(), "b": shorter()},
    "list of one": lambda: [short()],
    "nested lists": lambda: [short(), [shorter(), short()]],
    "CombinedLoader": lambda: CombinedLoader([short(), shorter()], "sequential"),
    "distributed": lambda: distributed(10),
}


@pytest.mark.parametrize("validation", IN_TURN.values(), ids=IN_TURN)
def test_loaders_in_turn(mocker: MockerFixture, validation: Callable[[], Any]) -> None:
    data = lambda: {"train_dataloaders": distributed(22), "val_dataloaders": validation()}  # noqa: E731
    case = Case(TellsLoaders, data, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class ValidatesTogether(Regression):
    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val_loss", sum(self.loss(part) for part in batch.values() if part is not None), batch_size=1)


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_loaders_together(mocker: MockerFixture, mode: str) -> None:
    data = lambda: {**loaders(), "val_dataloaders": CombinedLoader(IN_TURN["dictionary"](), mode)}  # noqa: E731
    case = Case(ValidatesTogether, data, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.parametrize("limit", [0, 0.0])
def test_limit_that_leaves_nothing(mocker: MockerFixture, limit: float) -> None:
    case = Case(Regression, loaders, options={"limit_val_batches": limit})
    assert_equal(run_lightning(case), run_determined(case, mocker))


class KeepsPartInEvaluation(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.layers[1].eval()
        self.seen: list[list[bool]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("modes", float(sum(layer.training for layer in self.layers)))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_modes", float(sum(layer.training for layer in self.layers)))


class ChangesModesItself(Regression):
    def on_validation_model_eval(self) -> None:
        self.layers[3].eval()

    def on_validation_model_train(self) -> None:
        self.train()
        self.layers[1].eval()

    def on_validation_model_zero_grad(self) -> None:
        self.zero_grad(set_to_none=False)


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training")
@pytest.mark.parametrize("module", [KeepsPartInEvaluation, ChangesModesItself])
@pytest.mark.versions
def test_modes(mocker: MockerFixture, module: type) -> None:
    case = Case(module, loaders, every_hook=False, validation=2)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class WithoutValidation(Regression):
    validation_step = Regression.__mro__[1].validation_step  # type: ignore[attr-defined]


def test_without_validation(mocker: MockerFixture) -> None:
    case = Case(WithoutValidation, lambda: {"train_dataloaders": loaders()["train_dataloaders"]})
    assert_equal(run_lightning(case), run_determined(case, mocker))


class ReadsGradients(Regression):
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        assert not torch.is_grad_enabled()
        self.log("gradients", float(sum(parameter.grad is not None for parameter in self.parameters())))

    def on_train_epoch_end(self) -> None:
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradients_are_released(mocker: MockerFixture, accumulate: int) -> None:
    options = {"accumulate_grad_batches": accumulate}
    case = Case(ReadsGradients, loaders, options=options, validation=2, every_hook=False)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class LogsNothing(Regression):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def batches_of_two_lengths() -> dict[str, Any]:
    dataset: Any = [{"input": torch.ones(2), "weight": torch.ones(3)}]
    return {**loaders(), "val_dataloaders": DataLoader(dataset, batch_size=None)}


def test_nobody_infers_the_size_of_a_batch_of_which_nothing_is_logged(mocker: MockerFixture) -> None:
    """Lightning would warn that there are two."""
    case = Case(LogsNothing, batches_of_two_lengths, every_hook=False)
    for run in (run_lightning, functools.partial(run_determined, mocker=mocker)):
        warning_cache.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(case)
        assert not [each for each in caught if "batch_size" in str(each.message)]
