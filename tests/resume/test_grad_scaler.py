"""The gradient scaler of ``16-mixed`` is in every checkpoint: its scale, and how far it is from growing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor

from lightning_shim.loop import precision
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_same, run_determined
from tests.resume.conftest import after, checkpoints
from tests.support.recording import Recording


class Scaled(Regression):
    """Its scaler backs off at first and where the loss is infinite, and grows every third step."""

    states: list[dict[str, Any]]

    def on_fit_start(self) -> None:
        self.trainer.scaler.set_growth_interval(3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * (torch.inf if self.global_step == 4 else 1.0)

    def on_train_batch_end(self, *args: Any) -> None:
        state = self.trainer.scaler.state_dict()
        self.log_dict({"scale": state["scale"], "growth": float(state["_growth_tracker"])})

    def on_train_end(self) -> None:
        self.states.append(self.trainer.scaler.state_dict())


class Manual(Scaled):
    """Accumulates the scaled gradients of two batches by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Scaled, {"gradient_clip_val": 0.5}),
        (Scaled, {"accumulate_grad_batches": 4}),
        (Manual, {}),
    ],
    ids=["clipping", "accumulating", "manual"],
)
def test_every_checkpoint(
    mocker: MockerFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    module: type,
    options: dict[str, Any],
) -> None:
    # What 16-mixed is on a GPU; on a CPU it would become bf16-mixed.
    monkeypatch.setitem(precision._FORMATS, "bf16-mixed", precision._FORMATS["16-mixed"])
    monkeypatch.setattr(Scaled, "states", [], raising=False)
    case = Case(module, loaders, max_epochs=2, options={"precision": "bf16-mixed", **options})
    folder = tmp_path_factory.mktemp("uninterrupted")
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
    whole = run_determined(case, mocker, checkpoint_period=pytorch.Batch(1))
    written = checkpoints(folder)
    assert sorted(written) == list(range(1, 13))
    assert len(set(scales(whole))) > 2
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(tmp_path_factory.mktemp("resumed")))
    for batches, checkpoint in sorted(written.items()):
        case.seed = 100 + batches
        resumed = run_determined(case, mocker, latest_checkpoint=checkpoint)
        assert Scaled.states[-1] == Scaled.states[0], f"scaler after {batches}"
        assert_same(resumed.weights, whole.weights, f"weights after {batches}")
        assert_same(resumed.optimizers, whole.optimizers, f"optimizers after {batches}")
        assert resumed.global_step == whole.global_step
        assert_same(after(resumed, batches), after(whole, batches), f"logged after {batches}")


def scales(recording: Recording) -> list[float]:
    return [value for values in recording.logged.values() for name, value in values if name == "scale"]
