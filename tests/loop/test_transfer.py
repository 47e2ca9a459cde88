"""Batches on their way to a GPU, for which PyTorch's device ``meta`` stands: they arrive as Lightning moves them."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from pytest_mock import MockerFixture

from lightning_shim.loop.transfer import BatchTransfer
from lightning_shim.upstream.lightning import lightning_of
from tests.support.tiny import tiny

META = torch.device("meta")

Pair = namedtuple("Pair", ["inputs", "targets"])


def described(batch: Any) -> Any:
    """The types of a batch's containers, and of its tensors where they are; other objects as they are."""
    if isinstance(batch, torch.Tensor):
        return type(batch), batch.device, batch.shape
    if isinstance(batch, dict):
        return type(batch), [(name, described(part)) for name, part in batch.items()]
    return (type(batch), [described(part) for part in batch]) if isinstance(batch, (tuple, list)) else batch


def one() -> torch.Tensor:
    return torch.ones(2, 3)


@pytest.mark.parametrize(
    ("batch", "is_plain"),
    [
        (one(), True),
        ((one(), one()), True),
        ([one()], True),
        ({"b": one(), "a": one()}, True),
        ({}, True),
        ((one().to(META), one()), True),
        ([one(), "name"], False),
        ((one(), [one()]), False),
        ({"a": {"b": one()}}, False),
        (Pair(one(), one()), False),
        (OrderedDict(a=one()), False),
        (torch.nn.Parameter(one()), False),
        (None, False),
    ],
)
def test_arrives_as_under_lightning(pl: ModuleType, mocker: MockerFixture, batch: Any, is_plain: bool) -> None:
    lightning = mocker.Mock(wraps=lightning_of(tiny(pl)()))
    lightning.move_data_to_device = search = mocker.Mock(side_effect=move_data_to_device)
    session = mocker.Mock(lightning=lightning, datamodule=None)
    strategy = mocker.Mock(root_device=META)
    strategy.precision_plugin.converts_input = False
    transfer = BatchTransfer(session, mocker.Mock(**{"calls.return_value": False}), strategy)
    moved = transfer(batch, 0)
    assert described(moved) == described(move_data_to_device(batch, META))
    assert moved is not batch or batch is None
    assert search.called is not is_plain
