"""Lightning's precisions on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from pytest_mock import MockerFixture
from torch import Tensor, nn

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning

# The loss of the modules is one that a CPU computes slowly in float16 with PyTorch 2.3, and not in bfloat16.
PRECISIONS = [
    "32-true",
    "64-true",
    *(pytest.param(name, marks=pytest.mark.torch(">=2.4")) for name in ("16-true", "bf16-true")),
    "bf16-mixed",
]


@pytest.mark.parametrize("precision", [*PRECISIONS, 32, "64"])
def test_precision(mocker: MockerFixture, precision: Any) -> None:
    case = Case(Regression, loaders, options={"precision": precision, "gradient_clip_val": 0.5})
    assert_equal(run_lightning(case), run_determined(case, mocker))


class MakesTensors(Regression):
    """Makes its layers in ``configure_model`` and tensors in its steps, all in the dtype of the moment."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = None

    def configure_model(self) -> None:
        if self.layers is None:
            self.layers = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 1))
            self.register_buffer("shift", torch.ones(1))

    def loss(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self(inputs) + torch.rand(1) + self.shift, targets)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log_bits("training")
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log_bits("epoch_end")

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log_bits("validation")
        self.log("val_loss", self.loss(batch))

    def log_bits(self, place: str) -> None:
        tensors = {"made": torch.zeros(1), "weight": self.layers[0].weight, "buffer": self.shift}
        self.log_dict({f"{name}_in_{place}": float(torch.finfo(tensor.dtype).bits) for name, tensor in tensors.items()})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_made_by_the_module(mocker: MockerFixture, precision: str) -> None:
    case = Case(MakesTensors, loaders, options={"precision": precision}, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


@pytest.mark.filterwarnings("ignore:You passed `Trainer.accelerator='cpu', precision='16-mixed'.`")
@pytest.mark.filterwarnings("ignore:precision='16-mixed' needs a GPU")
def test_half_precision_becomes_bfloat16(mocker: MockerFixture) -> None:
    case = Case(Regression, loaders, options={"precision": "16-mixed"})
    assert_equal(run_lightning(case), run_determined(case, mocker))


class KeepsOtherDtypes(Regression):
    """Has what a conversion of the module must leave alone, or convert in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.error = torchmetrics.MeanSquaredError()
        self.register_buffer("turn", torch.complex(torch.tensor([3.0]), torch.tensor([4.0])))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.error(self(batch[0]), batch[1])
        self.log("error", self.error, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx) * self.turn.imag.sum()


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_metrics_and_complex_numbers(mocker: MockerFixture, precision: str) -> None:
    case = Case(KeepsOtherDtypes, loaders, options={"precision": precision})
    assert_equal(run_lightning(case), run_determined(case, mocker))
