"""Callbacks that freeze a part of the module, and give it to the optimizer later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import BackboneFinetuning, BaseFinetuning, LearningRateMonitor
from torch import Tensor, nn

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning


class Transfer(Regression):
    """Has a backbone that its optimizer does not know at first."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(self.layers[0], self.layers[1])
        self.head = self.layers[2:]
        del self.layers

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(filter(lambda parameter: parameter.requires_grad, self.parameters()), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Unfreezes(BaseFinetuning):
    """Unfreezes one layer after the other."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch in (1, 2):
            self.unfreeze_and_add_param_group(pl_module.backbone[2 - epoch], optimizer, initial_denom_lr=epoch)


FINETUNING: dict[str, Any] = {
    "BaseFinetuning": Unfreezes,
    "BackboneFinetuning": lambda: BackboneFinetuning(
        unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.5, backbone_initial_ratio_lr=0.1
    ),
}


# It freezes no batch normalisation, and wants to add what it has not frozen.
@pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist")
@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning(mocker: MockerFixture, name: str) -> None:
    callbacks = lambda: [FINETUNING[name](), LearningRateMonitor("epoch")]  # noqa: E731
    case = Case(Transfer, loaders, max_epochs=4, callbacks=callbacks)
    lightning, determined = run_lightning(case), run_determined(case, mocker)
    assert len(lightning.optimizers[0]["param_groups"]) == (3 if name == "BaseFinetuning" else 2)
    assert_equal(lightning, determined)
