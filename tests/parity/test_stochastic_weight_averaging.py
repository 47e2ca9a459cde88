"""Lightning's StochasticWeightAveraging, which adds an epoch for batch normalisation, and has its own scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, StochasticWeightAveraging
from torch import Tensor, nn

import lightning_shim
from tests.parity.modules import Regression, StepsByHand, loaders
from tests.parity.oracle import WAYS_TO_RECORD, Case, assert_equal, run_determined, run_lightning
from tests.parity.runs import run_determined_by, run_lightning_by_steps
from tests.parity.test_accumulation_scheduler import SetsWithinEpochs
from tests.support.recording import Recording

EPOCHS = 4


class WithoutBatchNorm(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = nn.Identity()


def scheduled(make: Any, **settings: Any) -> type:
    """Makes a module with a scheduler of its own."""

    class Scheduled(Regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            return [optimizer], [{"scheduler": make(optimizer), **settings}]

    return Scheduled


class Groups(Regression):
    """Has two groups of parameters."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.layers[0].parameters()}, {"params": self.layers[1:].parameters(), "lr": 0.02}]
        return torch.optim.Adam(groups, lr=0.01)


def first_half(averaged: Tensor, parameter: Tensor, number: Tensor) -> Tensor:
    return averaged + (parameter - averaged) / (2 * (number + 1))


SCHEDULES = torch.optim.lr_scheduler
MODULES: dict[str, type] = {
    "batch norm": Regression,
    "no batch norm": WithoutBatchNorm,
    "two groups": Groups,
    "LambdaLR": scheduled(lambda optimizer: SCHEDULES.LambdaLR(optimizer, lambda epoch: 0.8**epoch)),
    "StepLR": scheduled(lambda optimizer: SCHEDULES.StepLR(optimizer, 1, gamma=0.5)),
    "ReduceLROnPlateau": scheduled(
        lambda optimizer: SCHEDULES.ReduceLROnPlateau(optimizer, patience=0), monitor="val_loss"
    ),
}
AVERAGING: dict[str, dict[str, Any]] = {
    "defaults": {},
    "from an epoch on": {"swa_epoch_start": 2},
    "from a fraction on": {"swa_epoch_start": 0.25},
    "from the start": {"swa_epoch_start": 0.0},
    "linear": {"swa_epoch_start": 2, "annealing_strategy": "linear", "annealing_epochs": 2},
    "function": {"swa_epoch_start": 1, "avg_fn": first_half},
    "device of the module": {"swa_epoch_start": 1, "device": None},
    "device by name": {"swa_epoch_start": 1, "device": "cpu"},
}


def compare(case: Case, mocker: MockerFixture) -> tuple[Recording, Recording]:
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    # Lightning logs after a number of steps, of which the added epoch has one, Determined after a number of batches.
    lightning.logged = determined.logged = {}
    assert_equal(lightning, determined)
    return lightning, determined


@pytest.mark.parametrize(
    ("module", "averaging"),
    [*((name, "from an epoch on") for name in MODULES), *(("batch norm", name) for name in AVERAGING)],
)
def test_averaging(mocker: MockerFixture, module: str, averaging: str) -> None:
    options = {"swa_lrs": [0.04, 0.03] if module == "two groups" else 0.04, **AVERAGING[averaging]}
    case = Case(
        MODULES[module], loaders, EPOCHS, callbacks=lambda: [StochasticWeightAveraging(**options)], every_hook=False
    )
    lightning, _ = compare(case, mocker)
    assert lightning.current_epoch == EPOCHS + (module != "no batch norm")
    assert lightning.callback_states["StochasticWeightAveraging"]["n_averaged"] > 0


class ManualRegression(StepsByHand, Regression):
    """Trains on in the added epoch, as under Lightning."""


BESIDE: dict[str, dict[str, Any]] = {
    "accumulation": {"options": {"accumulate_grad_batches": 4}},
    "clipping": {"options": {"gradient_clip_val": 0.1}},
    "reloading": {"options": {"reload_dataloaders_every_n_epochs": 1}},
    "precision": {"options": {"precision": "bf16-mixed"}},
    # The gradients of the last batch are then there when the added epoch takes its one step.
    "no validation": {"options": {"limit_val_batches": 0}},
    "accumulation, no validation": {"options": {"limit_val_batches": 0, "accumulate_grad_batches": 4}},
    "validation between": {"validation": 4},
    "manual": {"module": ManualRegression},
}


@pytest.mark.parametrize("way", WAYS_TO_RECORD)
@pytest.mark.parametrize("beside", BESIDE)
def test_beside_other_options(mocker: MockerFixture, beside: str, way: str) -> None:
    settings = {"module": Regression, "data": loaders, **BESIDE[beside], **WAYS_TO_RECORD[way]}
    compare(Case(**settings, max_epochs=3, callbacks=lambda: [StochasticWeightAveraging(0.04, 1)]), mocker)


@pytest.mark.parametrize("module", ["batch norm", "no batch norm"])
def test_accumulation_that_is_set_within_epochs(mocker: MockerFixture, module: str) -> None:
    """The added epoch then steps in between, with no gradients or those of the last batch that had some."""
    callbacks = lambda: [StochasticWeightAveraging(0.04, 1), SetsWithinEpochs()]  # noqa: E731
    compare(Case(MODULES[module], loaders, 3, callbacks=callbacks, every_hook=False), mocker)


@pytest.mark.parametrize(
    # Older callbacks set max_epochs to 0, and their Trainers train nothing.
    "module",
    [pytest.param("batch norm", marks=pytest.mark.lightning(">=2.6.4")), "no batch norm"],
)
def test_length_in_batches(mocker: MockerFixture, module: str) -> None:
    """As Lightning, it then adds no epoch, and takes over the averages when training ends."""
    case = Case(MODULES[module], loaders, callbacks=lambda: [StochasticWeightAveraging(0.04, 1)], every_hook=False)
    lightning, determined = run_lightning_by_steps(case, 12), run_determined_by(case, mocker, pytorch.Batch(12))
    assert_equal(lightning, determined)


def test_early_stopping(mocker: MockerFixture) -> None:
    stopping = lambda: EarlyStopping("val_loss", patience=0, min_delta=100.0)  # noqa: E731
    case = Case(Regression, loaders, 5, callbacks=lambda: [StochasticWeightAveraging(0.04, 1), stopping()])
    lightning, _ = compare(case, mocker)
    assert lightning.current_epoch == 2


@pytest.mark.filterwarnings("ignore:SWA is initializing after swa_start without any checkpoint data")
def test_learning_rates_are_logged(mocker: MockerFixture) -> None:
    callbacks = lambda: [StochasticWeightAveraging(0.04, 2), LearningRateMonitor("epoch")]  # noqa: E731
    case = Case(MODULES["LambdaLR"], loaders, EPOCHS, callbacks=callbacks)
    compare(case, mocker)


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("module", ["batch norm", "no batch norm"])
def test_where_a_checkpoint_has_the_averages(module: str) -> None:
    averaging = StochasticWeightAveraging(0.04, 1)
    options: dict[str, Any] = {"limit_val_batches": 0} if module == "no batch norm" else {}
    trial = lightning_shim.fit(
        MODULES[module](), **loaders(), max_length=pytorch.Epoch(3), callbacks=averaging, **options
    )
    checkpoint = torch.load(trial.checkpoint_path / "state_dict.pth", weights_only=False)
    averages = checkpoint["callbacks"]["StochasticWeightAveraging"]["average_model_state"]
    for name, parameter in trial.module.named_parameters():
        assert torch.equal(averages[name], parameter)
        assert torch.equal(checkpoint["state_dict"][name], parameter) is (module == "batch norm")
