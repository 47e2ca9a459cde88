"""``16-mixed``: float16 with a gradient scaler, on the CPU.

PyTorch's scaler and its autocast to float16 work on a CPU, and Lightning's own ``MixedPrecision`` takes such a scaler.
The trial turns ``16-mixed`` into ``bf16-mixed`` on a CPU, as ``pl.Trainer`` does when it is asked by that name; here
that name stands for what ``16-mixed`` is on a GPU, so that everything else is what runs there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lightning_shim import ConfigurationError
from lightning_shim.loop import precision
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.support.places import place_in
from tests.support.recording import Recording


@pytest.fixture(autouse=True)
def float16_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precision._FORMATS, "bf16-mixed", precision._FORMATS["16-mixed"])


def run_both(case: Case, mocker: MockerFixture) -> tuple[Recording, Recording]:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    return run_lightning(case, plugins=[plugin]), run_determined(case, mocker, precision="bf16-mixed")


class Scaled(Regression):
    """Shows its scaler, whose scale is too large at first, and grows again every third step."""

    def on_fit_start(self) -> None:
        self.trainer.scaler.set_growth_interval(3)

    def on_before_backward(self, loss: Tensor) -> None:
        self.log("scaled_loss", loss, on_step=True, on_epoch=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.log("gradients", sum(gradient.norm() for gradient in gradients) + 0.0)

    def on_train_batch_end(self, *args: Any) -> None:
        state = self.trainer.scaler.state_dict()
        self.log_dict({"scale": state["scale"], "growth": float(state["_growth_tracker"])})


class Schedules(Scaled):
    """Its scheduler is stepped also where the scaler has skipped the optimizer's step."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Overflows(Schedules):
    """Its loss is infinite, or not a number, in some batches."""

    def loss(self, batch: list[Tensor]) -> Tensor:
        loss = super().loss(batch)
        step = self.global_step if self.training else 0
        return loss * {3: torch.inf, 8: torch.nan}.get(step, 1.0)


class SkipsSomeBatches(Scaled):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class WarmsUp(Scaled):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]) -> None:
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * min(1.0, (self.trainer.global_step + 1) / 8)


class OwnBackwardAndClipping(Scaled):
    def backward(self, loss: Tensor) -> None:
        (loss * 2).backward()

    def configure_gradient_clipping(self, optimizer: Any, **settings: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.5 / (1 + self.current_epoch), gradient_clip_algorithm="norm")


class Fused(Scaled):
    """Its optimizer unscales the gradients in its own step, and finds there whether to skip it."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01, fused=True)


class Manual(Overflows):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.lr_schedulers().step()
        return loss


class ManualWithClosure(Manual):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()

        def closure() -> None:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))

        optimizer.step(closure=closure)


class ManualAccumulation(Manual):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.manual_backward(self.loss(batch) / 2)
        if batch_idx % 2 or self.trainer.is_last_batch:
            self.optimizers().step()
            self.optimizers().zero_grad()


class Adversarial(Manual):
    """Two optimizers share the scaler, which is updated after the step of each."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        generator, critic = self.optimizers()
        inputs, targets = batch
        with generator.toggle_model():
            generator.zero_grad()
            self.manual_backward(-self.critic(self(inputs)).mean())
            generator.step()
        with critic.toggle_model():
            critic.zero_grad()
            self.manual_backward(self.critic(self(inputs).detach()).mean() - self.critic(targets).mean())
            critic.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.layers, self.critic)]


FUSED_ON_CPU = pytest.mark.torch(">=2.4")  # PyTorch has no fused optimizers on a CPU before.

MODULES = [
    Scaled,
    Schedules,
    Overflows,
    WarmsUp,
    OwnBackwardAndClipping,
    pytest.param(Fused, marks=FUSED_ON_CPU),
    Manual,
    ManualWithClosure,
    ManualAccumulation,
    Adversarial,
]


# PyTorch cannot know that the scaler has skipped the first step.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step..` before `optimizer.step..`:UserWarning")
@pytest.mark.parametrize("every_hook", [True, False], ids=["every hook overridden", "own hooks only"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module(mocker: MockerFixture, module: type, every_hook: bool) -> None:
    lightning, determined = run_both(Case(module, loaders, every_hook=every_hook), mocker)
    scales = [value for values in lightning.logged.values() for name, value in values if name == "scale"]
    changes = {(after > before) - (after < before) for before, after in itertools.pairwise(scales)}
    assert changes >= {-1, 1}
    assert_equal(lightning, determined)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_skipped_batches(mocker: MockerFixture) -> None:
    assert_equal(*run_both(Case(SkipsSomeBatches, loaders), mocker))


OPTIONS: list[dict[str, Any]] = [
    {"gradient_clip_val": 0.5},
    {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    {"accumulate_grad_batches": 4},
    {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step..` before `optimizer.step..`:UserWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(mocker: MockerFixture, options: dict[str, Any]) -> None:
    lightning, determined = run_both(Case(Overflows, loaders, options=options), mocker)
    if "accumulate_grad_batches" in options:
        # Lightning logs under the number of steps, Determined under the number of batches.
        lightning.logged, determined.logged = {}, {}
    assert_equal(lightning, determined)


class LimitedMemory(Scaled):
    def configure_optimizers(self) -> Any:  # here: LBFGS
        return torch.optim.LBFGS(self.parameters())


class ClipsFused(Fused):
    def configure_gradient_clipping(self, optimizer: Any, **settings: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.5)  # here: clipping


@pytest.mark.parametrize(
    ("module", "error", "sentence"),
    [
        (LimitedMemory, MisconfigurationException, "AMP and the LBFGS optimizer are not compatible"),
        pytest.param(
            ClipsFused,
            RuntimeError,
            "The current optimizer, Adam, does not allow for gradient clipping",
            marks=FUSED_ON_CPU,
        ),
    ],
    ids=["LBFGS", "clipping of a fused optimizer"],
)
def test_refused_by_both(mocker: MockerFixture, module: type, error: type[Exception], sentence: str) -> None:
    case = Case(module, loaders, every_hook=False)
    with pytest.raises(error, match=sentence):
        run_both(case, mocker)
    with pytest.raises(ConfigurationError) as caught:
        run_determined(case, mocker, precision="bf16-mixed")
    place = place_in(Path(__file__), "LBFGS" if module is LimitedMemory else "clipping")
    assert str(caught.value).startswith(f"{place}: {sentence}")
    assert isinstance(caught.value, error)
