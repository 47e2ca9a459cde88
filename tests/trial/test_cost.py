"""What a step must not do: wait for the device between two reports, or leave anything behind."""

from __future__ import annotations

import dis
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import lightning_shim

NAMES = ("zero", "one", "two", "three", "four")


class OnDevice(Tensor):
    """A tensor that says that it is on a device, as all are on a GPU. Those of the CPU may be read at once."""

    is_cpu = False  # type: ignore[assignment]


class Waits(TorchDispatchMode):
    """Counts the operations for which the host would wait, were the tensors on a GPU.

    ``Tensor.item``, ``float``, ``bool`` and comparisons in ``if`` end in ``_local_scalar_dense`` or ``is_nonzero``;
    ``Tensor.cpu``, ``numpy`` and ``tolist`` in a copy to the CPU. What is on the CPU already is not copied, so that
    :meth:`watching` counts the calls as well.
    """

    OPERATIONS = frozenset({"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique"})
    METHODS = ("cpu", "numpy", "tolist", "item", "__float__", "__bool__", "__int__", "__array__")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        is_copy = name in ("_to_copy", "to") and str((kwargs or {}).get("device", "")) == "cpu"
        if name in self.OPERATIONS or is_copy:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self.counts[name] += 1
                return method(*args, **kwargs)

            return call

        with monkeypatch.context() as context, self:
            for name in self.METHODS:
                context.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
            yield


def logging_module(pl: ModuleType, configure: Callable[[Any], Any] | None = None) -> type:
    class Lit(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = self.layer(batch).square().mean().as_subclass(OnDevice)
            for name in NAMES:
                self.log(name, loss, on_step=True, on_epoch=True, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            return optimizer if configure is None else configure(optimizer)

    return Lit


def data(batches: int) -> DataLoader[Tensor]:
    return DataLoader(list(torch.randn(2 * batches, 4)), batch_size=2)  # type: ignore[arg-type]


def train(trial: Any, context: pytorch.PyTorchTrialContext, steps: int, report: int) -> None:
    pytorch.Trainer(trial, context).fit(
        max_length=pytorch.Batch(steps), reporting_period=pytorch.Batch(report), checkpoint_policy="none"
    )


def with_step_scheduler(optimizer: torch.optim.Optimizer) -> Any:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.torch(">=2.4")  # Before, a result of an operation cannot become a tensor of a subclass.
class TestWaitingForTheDevice:
    @pytest.mark.parametrize("report", [50, 1000], ids=lambda report: f"report={report}")
    @pytest.mark.parametrize(
        ("options", "configure"),
        [
            ({}, None),
            ({"accumulate_grad_batches": 3}, None),
            ({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}, None),
            ({"gradient_clip_val": 0.5}, None),
            ({}, with_step_scheduler),
            ({"progress_bar": True}, None),
        ],
        ids=["plain", "accumulation", "clipping by value", "clipping by norm", "step scheduler", "progress bar"],
    )
    def test_no_step_between_two_reports_waits(
        self,
        options: dict[str, Any],
        configure: Any,
        report: int,
        pl: ModuleType,
        patched: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        waits = Waits()
        counts: list[dict[str, int]] = []

        class Watched(lightning_shim.LightningTrial):
            def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
                # Determined's loop around it is not ours, and copies nothing of what is returned: nothing is.
                waits.counts.clear()
                with waits.watching(monkeypatch):
                    returned = super().train_batch(batch, epoch_idx, batch_idx)
                assert returned == {}
                counts.append(dict(waits.counts))
                return returned

        options = dict(options)
        shows_progress = options.pop("progress_bar", False)
        steps = 600 if report == 1000 else 120
        with pytorch.init() as context:
            module = logging_module(pl, configure)()
            trial = Watched(context, module, train_dataloaders=data(700), max_length=pytorch.Batch(steps), **options)
            if shows_progress:
                trial.show_progress()
            train(trial, context, steps, report)
            trial.hide_progress()
        assert counts == [{}] * steps

    @pytest.mark.parametrize("wait", ["__float__", "__int__", "__bool__", "item", "cpu", "tolist", "numpy", "nonzero"])
    def test_waiting_is_seen(self, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
        waits = Waits()
        with waits.watching(monkeypatch):
            getattr(torch.ones(()), wait)()
        assert waits.counts


class TestGrowth:
    def retained(self, module_class: type, steps: int) -> tuple[int, int]:
        """Trains, and counts the tensors and other objects that are alive at the end of the last batch."""
        seen = []

        class Counting(lightning_shim.LightningTrial):
            def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
                returned = super().train_batch(batch, epoch_idx, batch_idx)
                if batch_idx == steps - 1:
                    gc.collect()
                    alive = gc.get_objects()
                    seen.append((sum(issubclass(type(entry), Tensor) for entry in alive), len(alive)))
                return returned

        with pytorch.init() as context:
            train(Counting(context, module_class(), train_dataloaders=data(500)), context, steps, report=100)
        (counts,) = seen
        return counts

    def test_nothing_is_left_behind_by_a_step(self, pl: ModuleType, patched: None) -> None:
        # One class for all: what is known of a class, and kept in caches of a limited size, is no step's.
        module_class = logging_module(pl)
        self.retained(module_class, 2_000)
        few_tensors, few_objects = self.retained(module_class, 2_000)
        many_tensors, many_objects = self.retained(module_class, 20_000)
        assert many_tensors == few_tensors
        assert abs(many_objects - few_objects) < 100


class TestBuilding:
    def test_code_is_read_once(self, pl: ModuleType, patched: None, mocker: MockerFixture) -> None:
        """There are some thirty questions about it, and each has the same code read."""

        class Lit(logging_module(pl)):  # type: ignore[misc]
            def unlike_any_other(self) -> None:
                self.what_is_read = self.what_is_not_written

        spy = mocker.spy(dis, "get_instructions")
        with pytorch.init() as context:
            lightning_shim.LightningTrial(context, Lit(), train_dataloaders=data(1), max_length=pytorch.Batch(1))
        read = [call.args[0].co_name for call in spy.call_args_list]
        assert read.count("unlike_any_other") == 1
