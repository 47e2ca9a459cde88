"""Training on one GPU, compared with Lightning's Trainer on the same one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics.aggregation import MeanMetric

import lightning_shim
from lightning_shim.checkpoint.tensor_digest import digest_on_device
from lightning_shim.checkpoint.trial_state import STATE_KEY
from tests.parity.modules import Regression, loaders
from tests.resume.conftest import checkpoints
from tests.support.lightning_trainer import NO_SANITY_CHECK, fit_by_lightning
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

ACCELERATOR = "gpu"
DEVICE = torch.device("cuda", 0)


def by_lightning(module_class: type, data: dict[str, Any], epochs: int = 2, **options: Any) -> Any:
    torch.manual_seed(1)
    module = module_class()
    fit_by_lightning(pl, module, **data, accelerator=ACCELERATOR, max_epochs=epochs, **options)
    return module


def by_determined(module_class: type, data: dict[str, Any], epochs: int = 2, **options: Any) -> Any:
    torch.manual_seed(1)
    options = {"max_length": pytorch.Epoch(epochs), "checkpoint_policy": "none", **NO_SANITY_CHECK, **options}
    return lightning_shim.fit(module_class(), **data, **options).module


def assert_same_weights(expected: nn.Module, module: nn.Module) -> None:
    torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0, equal_nan=True)


PRECISIONS = ("32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_of_each_precision(precision: str) -> None:
    expected = by_lightning(Regression, loaders(), precision=precision)
    assert_same_weights(expected, by_determined(Regression, loaders(), precision=precision))


class InfiniteSteps(Regression):
    """The scaler skips its step where the loss is infinite."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * (torch.inf if batch_idx == 2 else 1.0)


def test_infinite_steps_and_accumulation() -> None:
    options: dict[str, Any] = {"precision": "16-mixed", "accumulate_grad_batches": 2}
    expected = by_lightning(InfiniteSteps, loaders(), **options)
    assert_same_weights(expected, by_determined(InfiniteSteps, loaders(), **options))


class Compiled(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.compile(self.layers)


# PyTorch gives the first when it imports its compiler, and advises other matrix products than those that are compared.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_compiled_layers() -> None:
    torch.compiler.reset()
    expected = by_lightning(Compiled, loaders())
    # What was compiled for one training, such as for sizes of batches that it has seen, is not to be used in the other.
    torch.compiler.reset()
    assert_same_weights(expected, by_determined(Compiled, loaders()))


class SeesDevices(Regression):
    """Notes where the module, its batches and what callbacks see of logged values are."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log_dict({"number": 1.5, "from_host": torch.tensor(2.0)}, on_step=True, on_epoch=True)
        self.seen.append((batch_idx, self.device, batch[0].device, torch.cuda.current_device()))
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *_: Any) -> None:
        self._see("batch")

    def on_train_epoch_end(self) -> None:
        self._see("epoch")

    def _see(self, what: str) -> None:
        values = self.trainer.callback_metrics
        self.seen.append((what, {name: value.device for name, value in values.items()}))


def test_devices() -> None:
    expected, module = by_lightning(SeesDevices, loaders()), by_determined(SeesDevices, loaders())
    assert module.seen == expected.seen
    assert module.seen[0][1:3] == (DEVICE, DEVICE)
    # After fit it is where Lightning leaves it.
    assert {value.device for value in module.state_dict().values()} == {torch.device("cpu")}


class Counts(Regression):
    """Has a torchmetrics object that is in the middle of an epoch when the training is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()
        self.means: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.mean.update(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.means.append(self.mean.compute().item())
        self.mean.reset()


def test_resume_in_an_epoch(tmp_path: Path) -> None:
    """Dropout and the metric go on in the middle of an epoch as if nothing had been."""
    expected = by_determined(Counts, loaders(), checkpoint_period=pytorch.Batch(4))
    written = checkpoints(tmp_path)[4]
    # Nothing of it is a GPU's but what the module and its optimizer have, for machines with fewer of them.
    content = torch.load(written / "state_dict.pth", weights_only=False)
    tensors: list[Tensor] = []
    apply_to_collection(content[STATE_KEY], Tensor, tensors.append)
    assert {tensor.device for tensor in tensors} == {torch.device("cpu")}
    resumed = by_determined(Counts, loaders(), latest_checkpoint=written)
    assert_same_weights(expected, resumed)
    assert resumed.means == expected.means[-len(resumed.means) :]


class NeverWaits(tiny(pl)):  # type: ignore[misc]
    """Fails where the host waits for the GPU, in 50 of its steps."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            torch.cuda.set_sync_debug_mode("error")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("number", 1.0, on_step=True, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 51:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waits_again() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.usefixtures("waits_again")
def test_host_does_not_wait_in_steps() -> None:
    data = {"train_dataloaders": loader(4 * 60, pin_memory=True)}
    module = by_determined(NeverWaits, data, epochs=1, reporting_period=pytorch.Batch(100))
    assert module.steps == 60


class Wide(tiny(pl)):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.allocated = torch.cuda.memory_allocated()


MEBIBYTE = 2**20
"""What is logged takes a few arrays of 256 numbers, and each gradient of a wide layer 64 of these."""


def peak_memory(train: Any) -> int:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(Wide, {"train_dataloaders": loader(64)}, epochs=1)
    return torch.cuda.max_memory_allocated()


def test_peak_memory_is_lightnings() -> None:
    lightning, determined = peak_memory(by_lightning), peak_memory(by_determined)
    assert determined <= lightning + MEBIBYTE


def test_checkpoints_leave_nothing_on_the_gpu() -> None:
    def allocated(**options: Any) -> int:
        gc.collect()
        data = {"train_dataloaders": loader(4 * 4)}
        module = by_determined(Wide, data, epochs=1, accumulate_grad_batches=2, **options)
        return int(module.allocated)

    # The third batch's gradients are in the last checkpoint but one, and are there when the fourth batch begins.
    assert abs(allocated(checkpoint_period=pytorch.Batch(1)) - allocated()) <= MEBIBYTE


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float64, torch.int64], ids=str)
def test_digests_are_those_of_the_cpu(dtype: torch.dtype) -> None:
    numbers = torch.randn(2**21 + 3, generator=torch.Generator().manual_seed(1)).mul(100).to(dtype)
    on_gpu = numbers.to(DEVICE, copy=True)
    assert digest_on_device(on_gpu) == digest_on_device(numbers)
    on_gpu.data[-1] = not on_gpu[-1] if dtype is torch.bool else on_gpu[-1] + 16
    assert digest_on_device(on_gpu) != digest_on_device(numbers)


class HasBuffers(tiny(pl)):  # type: ignore[misc]
    """Has a buffer without state, and a generator of the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1000, 1000), persistent=False)
        self.generators: list[torch.Generator] = []
        self.drawn: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not self.generators:
            self.generators.append(torch.Generator(self.device).manual_seed(5))
        self.drawn.append(torch.rand((), device=self.device, generator=self.generators[0]).item())
        return super().training_step(batch, batch_idx) * self.mask.mean()


def test_buffers_and_generators(tmp_path: Path) -> None:
    """What has not changed is in no checkpoint, and generators go on where they were."""
    data = {"train_dataloaders": loader(4 * 4)}
    expected = by_determined(HasBuffers, data, epochs=1, checkpoint_period=pytorch.Batch(2))
    written = checkpoints(tmp_path)[2]
    attributes = torch.load(written / "state_dict.pth", weights_only=False)[STATE_KEY]["processes"][0]["attributes"]
    assert sum(each.nbytes for each in attributes) < expected.mask.nbytes / 2
    resumed = by_determined(HasBuffers, data, epochs=1, latest_checkpoint=written)
    assert resumed.drawn == expected.drawn
    assert resumed.generators[0].device.type == DEVICE.type
