"""How a loader is split between processes."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.checkpoint.attributes import OwnAttributes
from lightning_shim.data.requests import LoaderRequest
from lightning_shim.data.source import DataSource
from lightning_shim.loop.runtime import Runtime
from lightning_shim.session.options import TrainerOptions
from lightning_shim.session.schedule import Schedule
from lightning_shim.session.session import Session
from lightning_shim.upstream.determined.controller import Controller
from lightning_shim.upstream.lightning import lightning_of, request_loaders

SAMPLES = TensorDataset(torch.arange(10.0))


def session_of(mocker: MockerFixture, context: Any, rank: int) -> Session:
    """One of two processes; the other process is all that is made up."""
    mocker.patch.multiple(Session, world_size=2, global_rank=rank)
    lightning, controller = lightning_of(pl.LightningModule), Controller()
    schedule = Schedule(controller, None, None, None)
    options = TrainerOptions.checked(lightning)
    return Session(lightning, context, controller, schedule, options, pl.LightningModule(), None)


def batches(mocker: MockerFixture, stage: str, loader: DataLoader, rank: int) -> list[Any]:
    """Returns what one of two processes gets."""
    with pytorch.init() as context:
        session = session_of(mocker, context, rank)
        source = DataSource(session, LoaderRequest(session, stage, loader), OwnAttributes(Runtime.of(session)))
        source.set_up()
        return [batch[0].tolist() for batch, *_ in source.batches()]


def test_each_process_gets_its_part(mocker: MockerFixture) -> None:
    shares = [batches(mocker, "val", DataLoader(SAMPLES, batch_size=2), rank) for rank in range(2)]
    assert shares == [[[0, 2], [4, 6], [8]], [[1, 3], [5, 7], [9]]]


def test_training_is_shuffled(mocker: MockerFixture) -> None:
    shares = [batches(mocker, "train", DataLoader(SAMPLES, batch_size=5, shuffle=True), rank) for rank in range(2)]
    assert sorted(shares[0][0] + shares[1][0]) == list(range(10))
    assert shares[0][0] != [0, 2, 4, 6, 8]


def test_own_distributed_sampler_is_left_alone(mocker: MockerFixture) -> None:
    sampler = DistributedSampler(SAMPLES, num_replicas=5, rank=3, shuffle=False)
    assert batches(mocker, "train", DataLoader(SAMPLES, sampler=sampler), rank=0) == [[3], [8]]


def test_choice_of_another_sampler_is_shared(mocker: MockerFixture) -> None:
    shares = [batches(mocker, "val", DataLoader(SAMPLES, sampler=[7, 5, 3, 1]), rank) for rank in range(2)]
    assert shares == [[[7], [3]], [[5], [1]]]


def test_hook_that_raises_leaves_nothing_behind() -> None:
    def hook() -> Any:
        raise KeyError("of the user's")

    lightning = lightning_of(pl.LightningModule)
    # The first time, Lightning leaves the __delattr__ of object on the class.
    request_loaders(lightning, list)
    before = dict(vars(DataLoader))
    with pytest.raises(KeyError, match="of the user's"):
        request_loaders(lightning, hook)
    after = dict(vars(DataLoader))
    assert after.keys() == before.keys()
    assert all(after[name] is entry for name, entry in before.items())
