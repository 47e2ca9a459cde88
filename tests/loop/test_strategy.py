"""What ``trainer.strategy`` sends to the other processes."""

from __future__ import annotations

from types import ModuleType

import pytest
from determined import pytorch
from pytest_mock import MockerFixture

import lightning_shim
from tests.support.tiny import loader, tiny


@pytest.mark.usefixtures("patched")
def test_only_the_source_sends_its_object(pl: ModuleType, mocker: MockerFixture) -> None:
    trial = lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Batch(1), checkpoint_policy="none")
    strategy = trial.trainer.strategy
    allgather = mocker.patch.object(
        trial.context.distributed, "allgather", side_effect=lambda sent: [sent, "of the other"]
    )
    assert strategy.broadcast("own", src=1) == "of the other"
    allgather.assert_called_once_with(None)
    assert strategy.broadcast("own") == "own"
