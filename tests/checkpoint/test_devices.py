"""The devices of tensors in a checkpoint: on the CPU in its file, and afterwards where they were."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from lightning_utilities.core.apply_func import apply_to_collection
from pytest_mock import MockerFixture
from torchmetrics.aggregation import CatMetric, SumMetric

import lightning_shim
from lightning_shim.checkpoint.trial_state import STATE_KEY
from lightning_shim.loop.epoch_outputs import TrainingOutputs
from lightning_shim.session.own_generators import OwnGenerators
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

GPU = torch.device("cuda", 1)
META = torch.device("meta")


class OnPretendedGpu(torch.Tensor):
    """A tensor that says it is on a GPU, and can do nothing but be copied to the CPU."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> OnPretendedGpu:
        pretended = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device=GPU)
        pretended.numbers = numbers
        return pretended

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is torch.ops.aten._to_copy.default, function
        assert kwargs["device"] == torch.device("cpu")
        return args[0].numbers.clone()


def fitted(pl: ModuleType) -> Any:
    class WithMetrics(tiny(pl)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.total, self.on_host, self.every = SumMetric(), CatMetric(compute_on_cpu=True), CatMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for metric in (self.total, self.on_host, self.every):
                metric.update(torch.ones(2))
            return super().training_step(batch, batch_idx)

    return lightning_shim.fit(WithMetrics(), loader(), max_length=pytorch.Batch(2), checkpoint_policy="none")


def tensors_in(collection: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    apply_to_collection(collection, torch.Tensor, found.append)
    return found


def test_chief_is_sent_tensors_of_the_cpu(
    pl: ModuleType, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = fitted(pl)
    monkeypatch.setattr(trial.trainer.strategy, "root_device", GPU)
    trial._parts.runtime.metrics.views.callback["loss"] = OnPretendedGpu(torch.tensor(3.0))
    sent = mocker.spy(trial.context.distributed, "gather")
    trial._parts.trial_state.gather()
    (state,) = sent.call_args.args
    assert state["views"]["callback"]["loss"].item() == 3.0
    assert {type(tensor) for tensor in tensors_in(state)} == {torch.Tensor}
    assert {tensor.device for tensor in tensors_in(state)} == {torch.device("cpu")}


def test_metrics_come_back_on_their_device(pl: ModuleType) -> None:
    trial = fitted(pl)
    state, checkpoint = trial._parts.trial_state, {}
    state.gather()
    state.save(checkpoint)
    assert checkpoint[STATE_KEY]["processes"][0]["torchmetrics"]["total"]["sum_value"] == 4
    for metric in (trial.module.total, trial.module.on_host, trial.module.every):
        metric.to(META)
    state.load(checkpoint)
    assert state.apply()
    assert trial.module.total.sum_value.device == META
    assert [value.device for value in trial.module.every.value] == [META, META]
    assert [value.device for value in trial.module.on_host.value] == [torch.device("cpu")] * 2
    assert trial.module.total._update_count == 2


def test_views_come_back_on_the_device(pl: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = fitted(pl)
    state, views, checkpoint = trial._parts.trial_state, trial._parts.runtime.metrics.views, {}
    views.callback["loss"] = torch.tensor(3.0)
    state.gather()
    state.save(checkpoint)
    views.callback.clear()
    monkeypatch.setattr(trial.trainer.strategy, "root_device", META)
    state.load(checkpoint)
    assert state.apply()
    assert views.callback["loss"].device == META


def test_gradients_are_let_go(pl: ModuleType) -> None:
    class Manual(tiny(pl)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.alive: list[bool] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            if batch_idx > 0:
                # A checkpoint with this gradient has been written between the two batches.
                gradient = weakref.ref(self.layer.weight.grad)
                self.zero_grad()
                self.alive.append(gradient() is not None)
            self.manual_backward(self.layer(batch[0]).mean())

    module = Manual()
    trial = lightning_shim.fit(module, loader(), max_length=pytorch.Batch(3), checkpoint_period=pytorch.Batch(1))
    content = torch.load(trial.checkpoint_path / "state_dict.pth", weights_only=False)
    assert "layer.weight" in content[STATE_KEY]["processes"][0]["gradients"]
    assert module.alive == [False, False]


def test_outputs_come_back_where_they_were() -> None:
    outputs = TrainingOutputs()
    outputs.append([[{"loss": torch.zeros((), device=META), "kept": torch.ones(2)}], [None]])
    state = outputs.state_dict()
    # As a checkpoint is read.
    read = apply_to_collection(state, torch.Tensor, lambda tensor: torch.zeros_like(tensor, device="cpu"))
    restored = TrainingOutputs()
    restored.load_state_dict(read, META)
    (entry,) = (entry for entries in restored.state_dict()["batches"][0] for entry in entries if entry)
    assert {name: tensor.device.type for name, tensor in entry.items()} == {"loss": "meta", "kept": "cpu"}


class Holder:
    """Has a generator, made when it is first needed."""

    generator: torch.Generator | None = None


def test_generator_of_a_gpu(mocker: MockerFixture) -> None:
    holder = Holder()
    own = OwnGenerators({"holder": holder})
    holder.generator = torch.Generator()
    ((path, (name, (_, numbers))),) = own.capture().items()
    before = holder.generator.get_state()
    # CUDA's states have 16 bytes, which a generator of the CPU does not take.
    own.restore({path: (name, ("cuda", numbers[:16]))})
    assert torch.equal(holder.generator.get_state(), before)
    holder.generator = None
    own.restore({path: (name, ("cuda", numbers[:16]))})
    assert holder.generator.device == torch.device("cpu")
    made = mocker.patch("lightning_shim.session.own_generators.torch.Generator", side_effect=LookupError)
    mocker.patch("torch.cuda.is_available", return_value=True)
    holder.generator = None
    with pytest.raises(LookupError):
        own.restore({path: (name, ("cuda", numbers[:16]))})
    made.assert_called_once_with("cuda")
