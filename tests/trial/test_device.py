"""PyTorch says which device a trial has, whatever ``nvidia-smi`` says."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture

import lightning_shim
from lightning_shim.script import fit as script_fit
from lightning_shim.upstream.determined.context import (
    accelerator,
    devices,
    no_device_of_determined,
    own_device,
    settle_device,
)
from tests.parity.modules import Regression, loaders

NVIDIA_SMI = """#!/bin/sh
echo "0, GPU-5a1c4f2e-0000-0000-0000-000000000000, 0, 0, 40960"
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program on the PATH that says that there is a GPU, as on a machine whose PyTorch is built for CPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("nvidia_smi", "patched")
@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU")
def test_gpu_that_pytorch_does_not_see() -> None:
    with pytorch.init() as context:
        # Otherwise the fault would not be shown: so it would be without us.
        assert context.device == torch.device("cuda", 0)
    trial = lightning_shim.fit(Regression(), **loaders(), max_length=pytorch.Batch(1), checkpoint_policy="none")
    assert trial.context.device == trial.trainer.strategy.root_device == torch.device("cpu")


@pytest.fixture
def two_gpus(mocker: MockerFixture) -> None:
    """Has PyTorch say that there are two GPUs."""
    mocker.patch.object(torch.cuda, "is_available", return_value=True)
    mocker.patch.object(torch.cuda, "device_count", return_value=2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("local_rank", [None, 0, 1])
def test_gpu_is_that_of_the_local_rank(
    mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, local_rank: int | None
) -> None:
    """With one process too it is made the current one, whose random state and memory are used."""
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    made_current = mocker.patch.object(torch.cuda, "set_device")
    device = torch.device("cuda", local_rank or 0)
    # Without nvidia-smi on the PATH Determined itself has seen no GPU.
    context = mocker.Mock(device=torch.device("cpu"))
    settle_device(context)
    assert context.device == own_device() == device
    assert (accelerator(), devices()) == ("gpu", [device.index])
    made_current.assert_called_once_with(device)


@pytest.mark.usefixtures("two_gpus")
def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(lightning_shim.ConfigurationError, match=r"^There are 3 processes .* sees 2 GPUs\. Start one"):
        own_device()


@pytest.mark.usefixtures("nvidia_smi", "patched")
@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch sees a GPU")
def test_context_of_the_user() -> None:
    with pytorch.init() as context:
        assert context.device == torch.device("cuda", 0)
        trial = lightning_shim.LightningTrial(context, Regression(), **loaders())
        assert context.device == trial.trainer.strategy.root_device == trial.module.device == torch.device("cpu")


@pytest.mark.usefixtures("patched")
def test_device_is_current_before_the_module_is_built(
    request: pytest.FixtureRequest, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_current = mocker.patch.object(torch.cuda, "set_device")
    with pytorch.init() as context:
        request.getfixturevalue("two_gpus")
        monkeypatch.setenv("LOCAL_RANK", "1")

        def build() -> None:
            made_current.assert_called_once_with(torch.device("cuda", 1))
            raise LookupError("built")

        with pytest.raises(LookupError, match="built"):
            lightning_shim.LightningTrial(context, build)


def test_random_state_of_a_script(
    pl: ModuleType, request: pytest.FixtureRequest, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is captured when the process's own device is the current one: CUDA has a generator for each."""
    with lightning_shim.patched(trainer=True):
        trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
        request.getfixturevalue("two_gpus")
        monkeypatch.setenv("LOCAL_RANK", "1")
        made_current = mocker.patch.object(torch.cuda, "set_device")
        mocker.patch.object(script_fit.RandomState, "capture", side_effect=LookupError("captured"))
        with pytest.raises(LookupError, match="captured"):
            trainer.fit(Regression(), **loaders())
    made_current.assert_called_once_with(torch.device("cuda", 1))


def test_determined_chooses_no_device(mocker: MockerFixture) -> None:
    """With several processes it would make a GPU the current one, which PyTorch need not see."""
    made_current = mocker.patch.object(torch.cuda, "set_device")
    context = mocker.Mock(_num_gpus=2)
    context.distributed.configure_mock(size=2, local_rank=1)
    before = vars(pytorch.PyTorchTrialContext)["_init_device"]
    with no_device_of_determined():
        assert pytorch.PyTorchTrialContext._init_device(context) == torch.device("cpu")
    made_current.assert_not_called()
    assert vars(pytorch.PyTorchTrialContext)["_init_device"] is before
    # Otherwise the fault would not be shown.
    assert pytorch.PyTorchTrialContext._init_device(context) == torch.device("cuda", 1)
    made_current.assert_called_once_with(torch.device("cuda", 1))
