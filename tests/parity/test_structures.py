"""Modules built in every way that Lightning allows, and batches of every kind."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_shim
from lightning_shim import DifferenceWarning
from tests.parity.modules import Regression, dataset, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning
from tests.parity.runs import keeping
from tests.support.lightning_trainer import fit_by_lightning


def assert_parity(mocker: MockerFixture, module: type, data: Callable[[], Any] = loaders, **options: Any) -> list[Any]:
    """Compares the two sides, and returns their modules: Lightning's, then Determined's."""
    made: list[Any] = []
    case = Case(keeping(module, made), data, **options)
    assert_equal(run_lightning(case), run_determined(case, mocker))
    return made


class Inner(pl.LightningModule):
    """Is a part of another module: none of its hooks is called."""

    def __init__(self, *children: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        if children:
            (self.child,) = children

    def forward(self, inputs: Tensor) -> Tensor:
        # Without a trainer they are 0.
        return self.layer(inputs) * (1 + 0.1 * self.current_epoch) + 0.01 * self.global_step

    def never(self, *args: Any) -> Any:
        raise AssertionError("a hook of the inner module was called")

    setup = on_fit_start = on_train_start = on_train_batch_start = on_after_backward = on_train_epoch_end = never
    training_step = configure_optimizers = on_validation_start = on_save_checkpoint = configure_model = never
    on_before_batch_transfer = on_before_optimizer_step = optimizer_step = prepare_data = teardown = never


class Nested(Regression):
    """Lightning gives its trainer to modules that are the direct children of one that has it, and to no others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner(Inner())
        self.layers.insert(1, Inner())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        assert self.inner.trainer is self.inner.child.trainer is self.trainer
        assert self.inner.trainer.lightning_module is self
        assert self.inner.device == self.device
        with pytest.raises(RuntimeError, match="not attached"):
            _ = self.layers[1].trainer
        loss = super().training_step(batch, batch_idx)
        return loss + self.inner.child(self.inner(torch.ones(2, 8))).square().mean()


class ConfiguresModel(Regression):
    """Makes its layers late; ``configure_model`` may be called again."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = None

    def configure_model(self) -> None:
        if self.layers is None:
            self.layers = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 1))


class MakesParametersInSetup(Regression):
    def setup(self, stage: str) -> None:
        assert stage == "fit"
        self.scale = nn.Parameter(torch.rand(1))
        self.register_buffer("shift", torch.rand(1))
        # A hook that an instance has of its own.
        self.on_after_backward = lambda: torch.rand(1)

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * self.scale + self.shift


class HasBuffers(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("not_saved", torch.zeros(1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * inputs.mean(0))
            self.not_saved += 1
        return super().forward(inputs - self.mean) / (1 + 0.01 * self.not_saved)


class SharesParameters(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1))
        self.layers[2].weight = self.layers[0].weight


class HasParameterGroups(Regression):
    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.layers[0].parameters(), "lr": 0.1, "weight_decay": 0.01},
            {"params": self.layers[4].parameters()},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.01, amsgrad=True)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda n: 0.9**n, lambda n: 1 / (n + 1)])]


class SeveralOptimizersWithGroups(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        first, second = self.optimizers()
        loss = self.loss(batch)
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        if batch_idx % 2:
            second.step()
        first.param_groups[0]["lr"] *= 0.9
        self.log("rates", sum(group["lr"] for opt in (first, second) for group in opt.param_groups))

    def configure_optimizers(self) -> Any:
        first, _, _, _, last = self.layers
        return (
            torch.optim.SGD([{"params": [first.weight], "lr": 0.1}, {"params": [first.bias]}], lr=0.01, momentum=0.9),
            torch.optim.RMSprop([{"params": [last.weight]}, {"params": [last.bias], "alpha": 0.5}], lr=0.01),
        )


class Freezes(Regression):
    """Trains the last layer only in the first epoch, all in the second, nothing but the first in the third."""

    def on_train_epoch_start(self) -> None:
        first, last = self.layers[0], self.layers[4]
        first.requires_grad_(self.current_epoch > 0)
        last.requires_grad_(self.current_epoch < 2)


class FreezesInner(Nested):
    """``freeze`` puts the inner module into evaluation mode, ``unfreeze`` back."""

    def on_train_epoch_start(self) -> None:
        inner = self.inner
        if self.current_epoch == 1:
            inner.freeze()
        if self.current_epoch == 2:
            inner.unfreeze()
        self.log("training", float(inner.training) + 2.0 * inner.layer.weight.requires_grad)


class SwitchesInSetup(Regression):
    """Chooses manual optimization when it is set up."""

    def setup(self, stage: str) -> None:
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return {"loss": loss, "extra": 1}


class IsAutomaticByProperty(SwitchesInSetup):
    setup = Regression.setup

    @property
    def automatic_optimization(self) -> bool:
        return False


class CompilesPart(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.compile(self.layers, backend="eager")


class CompilesInConfigureModel(Regression):
    def configure_model(self) -> None:
        self.compiled = torch.compile(self.layers, backend="eager")

    def forward(self, inputs: Tensor) -> Tensor:
        return self.compiled(inputs)


class TakesAnything(Regression):
    def training_step(self, *args: Any) -> Any:
        batch, batch_idx = args
        self.log("batch_idx", float(batch_idx))
        return self.loss(batch)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        self.log("arguments", float(len(args) + 10 * len(kwargs)))


class TakesKeywords(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int = -1, extra: int = 3) -> Any:
        self.log("arguments", float(batch_idx + extra))
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val_arguments", float(batch_idx + 10 * dataloader_idx))


class NamesItOtherwise(Regression):
    """Lightning passes what it has by position."""

    def training_step(self, data: list[Tensor], index: int) -> Any:
        self.log("index", float(index))
        return self.loss(data)

    def validation_step(self, data: list[Tensor], index: int) -> Any:
        self.log("val_index", float(index))


class TakesOnlyTheBatch(Regression):
    def training_step(self, batch: list[Tensor]) -> Any:
        return self.loss(batch)


class HasAnExample(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 5)


MODULES = [
    Nested,
    ConfiguresModel,
    MakesParametersInSetup,
    HasBuffers,
    SharesParameters,
    HasParameterGroups,
    SeveralOptimizersWithGroups,
    Freezes,
    FreezesInner,
    SwitchesInSetup,
    IsAutomaticByProperty,
    CompilesPart,
    CompilesInConfigureModel,
    TakesAnything,
    TakesKeywords,
    NamesItOtherwise,
    TakesOnlyTheBatch,
    HasAnExample,
]


@pytest.mark.parametrize("every_hook", [True, False], ids=["every hook overridden", "own hooks only"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module(mocker: MockerFixture, module: type, every_hook: bool) -> None:
    assert_parity(mocker, module, every_hook=every_hook)


class Quiet(Regression):
    """Lightning's ``self.log`` cannot be compiled by PyTorch 2.13."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.loss(batch)


def test_compiled_as_a_whole(mocker: MockerFixture) -> None:
    """``pl.Trainer`` takes the module out of what ``torch.compile`` made of it, and runs its compiled steps."""
    case = Case(Quiet, loaders, every_hook=False)
    lightning = run_lightning(case)
    with lightning_shim.patched():
        pl.seed_everything(case.seed)
        module = Quiet()
        compiled = torch.compile(module, backend="eager")
        lightning_shim.fit(compiled, **loaders(), max_length=pytorch.Epoch(3), checkpoint_policy="none")
        assert_same(module.state_dict(), lightning.weights)


def test_compiled_as_a_whole_by_lightning() -> None:
    """What the test above relies on."""
    states = []
    for compiles in (False, True):
        pl.seed_everything(7)
        module = Quiet()
        trained = torch.compile(module, backend="eager") if compiles else module
        fit_by_lightning(pl, trained, **loaders(), max_epochs=1)
        states.append(module.state_dict())
    assert_same(states[1], states[0])


class DropsPart(Regression):
    """Leaves a part of itself out of the checkpoint, as one that is frozen and large."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        del checkpoint["state_dict"]["layers.4.bias"]


class IsLenient(DropsPart):
    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False
        nn.init.constant_(self.layers[4].bias, 5.0)

    def on_train_start(self) -> None:
        self.bias_at_start = self.layers[4].bias.item()


def resumed(module: type) -> Any:
    """Trains an epoch, and gives the module of another run that continues there."""
    made: list[Any] = []
    with lightning_shim.patched():
        trial = lightning_shim.fit(module(), **loaders(), max_length=pytorch.Epoch(1))
        lightning_shim.fit(
            keeping(module, made)(),
            **loaders(),
            max_length=pytorch.Epoch(2),
            latest_checkpoint=trial.checkpoint_path,
            checkpoint_policy="none",
        )
    return made[0]


def test_strict_loading() -> None:
    with pytest.raises(lightning_shim.CheckpointError, match=r"layers\.4\.bias"):
        resumed(DropsPart)


def test_lenient_loading() -> None:
    assert resumed(IsLenient).bias_at_start == 5.0


class ChangesWhatIsLoaded(Regression):
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["layers.4.bias"] = torch.full((1,), 5.0)

    def on_train_start(self) -> None:
        self.bias_at_start = self.layers[4].bias.item()


def test_state_changed_by_on_load_checkpoint() -> None:
    assert resumed(ChangesWhatIsLoaded).bias_at_start == 5.0


Pair = namedtuple("Pair", ["inputs", "targets"])


@dataclass
class Sample:
    inputs: Tensor
    targets: Tensor
    name: str


class Movable:
    """Moves by a method of its own, as torch_geometric's batches do."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self.moves = 0

    def to(self, device: Any, **kwargs: Any) -> Movable:
        moved = Movable(self.inputs.to(device), self.targets.to(device))
        moved.moves = self.moves + 1
        return moved


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda inputs, targets: {"inputs": inputs, "targets": targets, "name": ["a", "b"], "number": 3},
    "namedtuple": Pair,
    "tuple": lambda inputs, targets: (inputs, targets),
    "dataclass": lambda inputs, targets: Sample(inputs, targets, "sample"),
    "nested lists": lambda inputs, targets: [[inputs, ["text", [targets]]], None],
    "with .to": Movable,
    "tensor": lambda inputs, targets: torch.cat([inputs, targets], dim=1),
}


class Unpacks(Regression):
    """Trains on a batch of any kind; counts how often it has been moved."""

    def loss(self, batch: Any) -> Tensor:
        if isinstance(batch, dict):
            assert batch["name"] == ["a", "b"]
            inputs, targets = batch["inputs"], batch["targets"]
        elif isinstance(batch, (Pair, Sample, Movable)):
            inputs, targets = batch.inputs, batch.targets
        elif isinstance(batch, Tensor):
            inputs, targets = batch[:, :5], batch[:, 5:]
        elif isinstance(batch, tuple):
            inputs, targets = batch
        else:
            [[inputs, [text, [targets]]], nothing] = batch
            assert text == "text"
            assert nothing is None
        self.log("moves", float(getattr(batch, "moves", 0)), batch_size=1)
        self.log("size", inputs.mean(), on_epoch=True, batch_size=len(inputs))
        return nn.functional.mse_loss(self(inputs), targets)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every_hook", [True, False], ids=["every hook overridden", "own hooks only"])
def test_batch(mocker: MockerFixture, kind: str, every_hook: bool) -> None:
    def collate(rows: list[Any]) -> Any:
        return KINDS[kind](torch.stack([inputs for inputs, _ in rows]), torch.stack([targets for _, targets in rows]))

    def data() -> dict[str, Any]:
        return loaders(collate_fn=collate)

    assert_parity(mocker, Unpacks, data, max_epochs=2, every_hook=every_hook)


class InfersSize(Regression):
    """Logs a mean, which is weighted by what Lightning takes for the size of the batch."""

    def loss(self, batch: Any) -> Tensor:
        inputs, targets = (batch["inputs"], batch["targets"]) if isinstance(batch, dict) else batch
        return nn.functional.mse_loss(self(inputs), targets)


@pytest.mark.parametrize("kind", ["dict", "namedtuple", "tuple"])
def test_size_of_a_batch(mocker: MockerFixture, kind: str) -> None:
    def collate(rows: list[Any]) -> Any:
        inputs, targets = (torch.stack([row[part] for row in rows]) for part in (0, 1))
        return {"inputs": inputs, "targets": targets} if kind == "dict" else KINDS[kind](inputs, targets)

    assert_parity(mocker, InfersSize, lambda: loaders(collate_fn=collate), max_epochs=2)


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
@pytest.mark.parametrize("every_hook", [True, False], ids=["every hook overridden", "own hooks only"])
def test_batch_that_is_none(mocker: MockerFixture, every_hook: bool) -> None:
    def collate(rows: list[Any]) -> Any:
        if len(rows) == 2:
            return None
        return [torch.stack([row[part] for row in rows]) for part in (0, 1)]

    def data() -> dict[str, Any]:
        return {
            "train_dataloaders": DataLoader(dataset(), batch_size=4, collate_fn=collate),
            "val_dataloaders": loaders()["val_dataloaders"],
        }

    assert_parity(mocker, Regression, data, max_epochs=2, every_hook=every_hook)


class SetsHooksLate(Regression):
    """Sets hooks on itself in other hooks, as the user may."""

    def on_fit_start(self) -> None:
        self.on_train_start = lambda: self.log("train_start", 1.0)

    def on_train_epoch_start(self) -> None:
        epoch = float(self.current_epoch)
        self.on_train_batch_end = lambda outputs, batch, batch_idx: self.log("batch_end", epoch)
        self.on_train_epoch_end = lambda: self.log("epoch_end", epoch)


def test_hooks_set_by_hooks(mocker: MockerFixture) -> None:
    case = Case(SetsHooksLate, loaders, every_hook=False)
    lightning = run_lightning(case)
    # What a trial would not have if it went on within an epoch.
    with pytest.warns(DifferenceWarning, match=r"do not hold SetsHooksLate\.on_train_batch_end, .*on_train_epoch_end:"):
        determined = run_determined(case, mocker)
    assert {"train_start", "batch_end", "epoch_end"} <= lightning.callback_metrics.keys()
    assert_equal(lightning, determined)


class ReadsLoops(Regression):
    """Reads of Lightning's loops what published modules read."""

    def configure_optimizers(self) -> Any:
        fit_loop = self.trainer.fit_loop
        fit_loop.setup_data()
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        steps = self.trainer.num_training_batches * fit_loop.max_epochs
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=steps)
        has_validation = fit_loop.epoch_loop.val_loop._data_source.is_defined()
        return [optimizer], [{"scheduler": scheduler, "interval": "step" if has_validation else "epoch"}]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        loop = self.trainer.fit_loop.epoch_loop
        self.log_dict({"batch_idx": float(loop.batch_idx), "total": float(loop.total_batch_idx)})
        self.log("global_step", float(loop.global_step))


def test_loops(mocker: MockerFixture) -> None:
    case = Case(ReadsLoops, loaders, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))


class OwnMethod(Regression):
    """Has a method of its own under a name that was a hook in Lightning 1.x, and calls it."""

    calls = 0

    def on_epoch_end(self) -> None:
        self.calls += 1

    def training_step_end(self, loss: Tensor) -> Tensor:
        return loss * 2

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.training_step_end(super().training_step(batch, batch_idx))

    def on_train_epoch_end(self) -> None:
        self.on_epoch_end()
        self.log("calls", float(self.calls))


def test_own_methods_with_names_of_former_hooks(mocker: MockerFixture) -> None:
    case = Case(OwnMethod, loaders, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))
