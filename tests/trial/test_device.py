"""The device of a training: PyTorch says which, and not ``nvidia-smi``."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import gpu, pytorch
from pytest_mock import MockerFixture

import lightning_shim
from lightning_shim import ConfigurationError
from lightning_shim.script import fit as script_fit
from lightning_shim.upstream.determined import context as fence
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")


@pytest.fixture
def listed(mocker: MockerFixture) -> Any:
    """A machine whose ``nvidia-smi`` lists a GPU, which this PyTorch cannot use."""
    assert not torch.cuda.is_available()
    return mocker.patch.object(gpu, "get_gpu_uuids", return_value=["GPU-0"])


@pytest.fixture
def made_current(mocker: MockerFixture) -> Iterator[list[torch.device]]:
    """Two GPUs that PyTorch seems to have; the devices made current, in their order."""
    devices: list[torch.device] = []
    mocker.patch("torch.cuda.is_available", return_value=True)
    mocker.patch("torch.cuda.device_count", return_value=2)
    mocker.patch("torch.cuda.set_device", side_effect=devices.append)
    yield devices
    mocker.stopall()


def test_gpu_that_torch_cannot_use(pl: ModuleType, listed: Any) -> None:
    module = tiny(pl)()
    lightning_shim.fit(module, loader(), max_length=pytorch.Batch(1))
    assert module.steps == 1
    assert gpu.get_gpu_uuids is listed


def test_context_of_the_user(pl: ModuleType, listed: Any) -> None:
    with pytorch.init() as context:
        assert context.device == torch.device("cuda", 0)
        trial = lightning_shim.LightningTrial(context, tiny(pl)(), train_dataloaders=loader())
        assert context.device == trial.trainer.strategy.root_device == trial.module.device == torch.device("cpu")


@pytest.mark.parametrize("rank", [0, 1])
def test_gpu_without_nvidia_smi(
    made_current: list[torch.device], mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    mocker.patch.object(gpu, "get_gpu_uuids", return_value=[])
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    own = torch.device("cuda", rank)

    def build() -> Any:
        # A module may draw random numbers on the current device.
        assert made_current[-1] == own
        raise LookupError("built")

    with pytest.raises(LookupError, match="built"):
        lightning_shim.fit(build, loader(), max_length=pytorch.Batch(1))
    assert fence.devices() == [rank]


def test_one_device_for_init(made_current: list[torch.device]) -> None:
    with fence.init() as context:
        assert context.device == torch.device("cuda", 0)


@pytest.mark.parametrize("start", [fence.own_device, fence.devices, fence.init().__enter__])
def test_more_processes_than_gpus(
    made_current: list[torch.device], monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigurationError, match=r"local rank 2: PyTorch has 2 on this machine.*--nproc-per-node=2"):
        start()


def test_random_state_of_a_script(
    pl: ModuleType, request: pytest.FixtureRequest, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Captured only when the process's own device is current, since CUDA has a generator for each.
    monkeypatch.setenv("LOCAL_RANK", "1")
    with lightning_shim.patched(trainer=True):
        trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
        made_current = request.getfixturevalue("made_current")
        mocker.patch.object(script_fit.RandomState, "capture", side_effect=LookupError("captured"))
        with pytest.raises(LookupError, match="captured"):
            trainer.fit(tiny(pl)(), loader())
    assert made_current == [torch.device("cuda", 1)]
