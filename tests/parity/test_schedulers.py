"""Every shape that ``configure_optimizers`` may return, and when its schedulers are stepped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


def adam(module: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=0.01)


def optimizer_list(module: Any) -> Any:
    return [adam(module)]


def dictionary(module: Any) -> Any:
    return {"optimizer": adam(module)}


def dictionary_with_scheduler(module: Any) -> Any:
    optimizer = adam(module)
    return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1, gamma=0.5)}


def dictionary_with_step_scheduler(module: Any) -> Any:
    optimizer = adam(module)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 2}}


def two_lists(module: Any) -> Any:
    optimizer = adam(module)
    return [optimizer], [MultiStepLR(optimizer, [1, 2])]


def two_lists_with_dictionary(module: Any) -> Any:
    optimizer = adam(module)
    return [optimizer], [{"scheduler": CosineAnnealingLR(optimizer, 9), "interval": "step", "name": "cosine"}]


def several_schedulers(module: Any) -> Any:
    optimizer = adam(module)
    first = {"scheduler": LambdaLR(optimizer, lambda step: 0.99**step), "interval": "step"}
    return [optimizer], [first, {"scheduler": StepLR(optimizer, 1, gamma=0.5), "frequency": 2}]


def tuple_of_dictionaries(module: Any) -> Any:
    optimizer = adam(module)
    return ({"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 1), "interval": "epoch"}},)


def one_cycle(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = OneCycleLR(optimizer, 0.1, total_steps=module.trainer.estimated_stepping_batches)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def plateau_bare(module: Any) -> Any:
    optimizer = adam(module)
    return {
        "optimizer": optimizer,
        "lr_scheduler": ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
        "monitor": "val_loss",
    }


def plateau_by_epoch(module: Any) -> Any:
    optimizer = adam(module)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss_epoch", "strict": True}}


def plateau_by_step(module: Any) -> Any:
    optimizer = adam(module)
    scheduler = ReduceLROnPlateau(optimizer, patience=1, threshold=0.5)
    settings = {"scheduler": scheduler, "monitor": "loss_step", "interval": "step", "frequency": 2}
    return {"optimizer": optimizer, "lr_scheduler": settings}


def one_after_the_other(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    phases = [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, 14)]
    return [optimizer], [{"scheduler": SequentialLR(optimizer, phases, milestones=[4]), "interval": "step"}]


def chained(module: Any) -> Any:
    optimizer = adam(module)
    return [optimizer], [ChainedScheduler([StepLR(optimizer, 1), ExponentialLR(optimizer, 0.5)])]


def parameter_groups(module: Any) -> Any:
    groups = [{"params": module.layers[0].parameters(), "lr": 0.1}, {"params": module.layers[4].parameters()}]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


SHAPES = [
    optimizer_list,
    dictionary,
    dictionary_with_scheduler,
    dictionary_with_step_scheduler,
    two_lists,
    two_lists_with_dictionary,
    several_schedulers,
    tuple_of_dictionaries,
    one_cycle,
    plateau_bare,
    plateau_by_epoch,
    plateau_by_step,
    one_after_the_other,
    chained,
    parameter_groups,
]


# SequentialLR calls it so in older PyTorch.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step\\(\\)` was not necessary")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_shape(mocker: MockerFixture, shape: Any, accumulate: int) -> None:
    module = type("Configured", (Regression,), {"configure_optimizers": shape})
    case = Case(module, loaders, options={"accumulate_grad_batches": accumulate}, every_hook=False)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    if accumulate > 1:
        lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class DoublingScheduler:
    """A scheduler that is none of PyTorch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.count = 0

    def advance(self) -> None:
        self.count += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 * 2**-self.count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class StepsItself(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": DoublingScheduler(optimizer), "interval": "step", "frequency": 5}]

    def lr_scheduler_step(self, scheduler: DoublingScheduler, metric: Any) -> None:
        scheduler.advance()


def test_own_scheduler(mocker: MockerFixture) -> None:
    case = Case(StepsItself, loaders)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class NotStrict(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        scheduler = ReduceLROnPlateau(optimizer)
        return [optimizer], [{"scheduler": scheduler, "monitor": "nothing", "strict": False}]


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric nothing:RuntimeWarning")
def test_plateau_without_its_metric(mocker: MockerFixture) -> None:
    case = Case(NotStrict, loaders)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class FollowsWhatIsLoggedSometimes(Regression):
    """The metric is there from the second epoch on."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.current_epoch == 1:
            self.log("sometimes", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
        return [optimizer], [{"scheduler": scheduler, "monitor": "sometimes", "strict": False}]


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric sometimes:RuntimeWarning")
def test_plateau_with_its_metric_later(mocker: MockerFixture) -> None:
    case = Case(FollowsWhatIsLoggedSometimes, loaders, max_epochs=4)
    lightning = run_lightning(case)
    assert lightning.optimizers[0]["param_groups"][0]["lr"] < 0.01
    assert_equal(lightning, run_determined(case, mocker))


class FollowsByItself(Regression):
    """A scheduler that is no ReduceLROnPlateau, but follows a metric."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        settings = {"scheduler": DoublingScheduler(optimizer), "reduce_on_plateau": True, "monitor": "val_loss"}
        return [optimizer], [{**settings, "interval": interval} for interval in ("epoch", "step")]

    def on_train_start(self) -> None:
        # Before the first validation there is no such metric.
        self.trainer.callback_metrics["val_loss"] = torch.tensor(1.0)

    def lr_scheduler_step(self, scheduler: DoublingScheduler, metric: Any) -> None:
        scheduler.advance()
        scheduler.optimizer.param_groups[0]["lr"] *= float(metric)


def test_own_scheduler_that_follows_a_metric(mocker: MockerFixture) -> None:
    case = Case(FollowsByItself, loaders)
    assert_equal(run_lightning(case), run_determined(case, mocker))
