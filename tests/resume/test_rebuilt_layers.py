"""A module that builds its layers when it sees its checkpoint goes on training them after a pause."""

from __future__ import annotations

from typing import Any

import torch
from pytest_mock import MockerFixture

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.resume.conftest import Resumes


class Rebuilt(Regression):
    """Its checkpoints say how wide its layers are, as with modules that grow or are pruned."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        width = checkpoint["state_dict"]["layers.0.weight"].shape[0]
        self.layers[0] = torch.nn.Linear(self.layers[0].in_features, width)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 4), "interval": "step"}]


def test_every_checkpoint(resumes: Resumes, mocker: MockerFixture) -> None:
    case = Case(Rebuilt, loaders, max_epochs=2)
    assert resumes.everywhere(case) == list(range(1, 13))
    assert_equal(run_lightning(case), run_determined(case, mocker))
