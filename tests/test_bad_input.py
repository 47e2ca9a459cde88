"""Bad input gets an error of ours, before training starts, that says what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pickle
import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import MeanMetric

import lightning_shim
from lightning_shim import (
    CheckpointError,
    ConfigurationError,
    DifferenceWarning,
    IgnoredMemberWarning,
    LightningShimError,
    LightningShimWarning,
    MetricError,
    RefusedMemberError,
    RefusedMemberWarning,
    StrictModeError,
)
from lightning_shim._attachment import FIXED, FIXED_SENTENCE
from lightning_shim.members import Kind, Support, members
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.places import place_in

pytestmark = pytest.mark.usefixtures("patched")

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
place = functools.partial(place_in, Path(__file__))


def loader(samples: int = 16, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(samples, 3)), batch_size=4, **options)


def tiny(lightning: ModuleType) -> type:
    """A class of modules that train, and count their steps; tests derive from it what is wrong."""

    class Tiny(lightning.LightningModule):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, 1)
            self.steps = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.steps += 1
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Tiny


def checkpoints() -> list[Path]:
    return list(Path(os.environ["XDG_DATA_HOME"], "determined").glob("*"))


def train(module: Any, train_dataloaders: Any = None, val_dataloaders: Any = None, **options: Any) -> Any:
    options.setdefault("max_length", pytorch.Batch(1))
    return lightning_shim.fit(module, train_dataloaders, val_dataloaders, **options)  # here: fit


def refuse(
    error: type[LightningShimError],
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    **options: Any,
) -> str:
    """Has an input refused: by an error of ours, before the first step, and without a trace on disk."""
    before = checkpoints()
    with pytest.raises(error) as caught:
        train(module, train_dataloaders, val_dataloaders, **options)
    assert isinstance(caught.value, LightningShimError)
    assert getattr(module, "steps", 0) == 0, "the module has been trained before the input was refused"
    assert checkpoints() == before, "a checkpoint was left behind"
    return str(caught.value)


def trains(module: Any, *args: Any, **options: Any) -> None:
    """Proves that a module is as good as new: Determined trains it."""
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    steps = module.steps
    train(module, *(args or (loader(),)), **options)
    assert module.steps > steps
    assert any(not torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())


@contextlib.contextmanager
def warns(category: type[LightningShimWarning], at: str, expected: str) -> Iterator[None]:
    """Expects one warning of ours, and at the user's line."""
    with pytest.warns(category, match=expected) as caught:
        yield
    ours = [warning for warning in caught if issubclass(warning.category, LightningShimWarning)]
    assert [(f"{warning.filename}:{warning.lineno}", warning.category) for warning in ours] == [(place(at), category)]


@contextlib.contextmanager
def no_warnings_of_ours() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LightningShimWarning)
        yield


class TestModule:
    def test_without_training_step(self, lightning: ModuleType) -> None:
        class Untrained(lightning.LightningModule):  # here: without training_step
            def configure_optimizers(self) -> Any:
                return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

        message = refuse(ConfigurationError, Untrained(), loader())
        assert message.startswith(place("without training_step"))
        assert "Untrained does not define training_step" in message
        trains(tiny(lightning)())

    def test_without_configure_optimizers(self, lightning: ModuleType) -> None:
        class Unoptimized(lightning.LightningModule):  # here: without configure_optimizers
            steps = 0

            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.steps += 1

        message = refuse(ConfigurationError, Unoptimized(), loader())
        assert message.startswith(place("without configure_optimizers"))
        assert "Unoptimized does not define configure_optimizers" in message
        trains(tiny(lightning)())

    def test_optimizer_idx_with_manual_optimization(self, lightning: ModuleType) -> None:
        class Old(tiny(lightning)):
            automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> None:  # here: optimizer_idx
                self.steps += 1

        message = refuse(ConfigurationError, Old(), loader())
        assert message.startswith(place("optimizer_idx"))
        assert "Take it out" in message

    @pytest.mark.parametrize(
        "name", [row.name for row in members("LightningModule", Support.REFUSED) if row.kind is Kind.HOOK]
    )
    def test_refused_hook(self, pl: ModuleType, name: str) -> None:
        def hook(self: Any, *args: Any) -> None:  # here: refused hook
            raise AssertionError(f"{name} was called")

        module = type("Old", (tiny(pl),), {name: hook})()
        message = refuse(RefusedMemberError, module, loader())
        (row,) = [row for row in members("LightningModule") if row.name == name]
        assert message == f"{place('refused hook')}: {type(module).__qualname__}.{name} is refused: {row.sentence}"

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            (None, "there is no module"),
            (object(), "builtins.object is neither a LightningModule"),
            ("LitModel", "builtins.str is neither a LightningModule"),
            (torch.nn.Linear(3, 1), "Linear is neither a LightningModule"),
            (torch.nn.ReLU, "ReLU is neither a LightningModule"),
            (lambda: None, "NoneType is neither a LightningModule"),
        ],
        ids=["nothing", "object", "string", "torch module", "torch class", "function that returns nothing"],
    )
    def test_is_no_lightning_module(self, module: Any, expected: str) -> None:
        message = refuse(ConfigurationError, module, loader())
        assert expected in message
        assert place("fit") in message

    def test_datamodule_in_the_place_of_the_module(self, pl: ModuleType) -> None:
        datamodule = pl.LightningDataModule.from_datasets(TensorDataset(torch.randn(16, 3)), batch_size=4)
        message = refuse(ConfigurationError, datamodule)
        assert "LightningDataModule" in message
        assert "training_step" not in message, "it is no module that merely lacks a training_step"


def scheduler_of(optimizer: Any, **settings: Any) -> Any:
    return {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), **settings}


class Unsaved:
    """A scheduler of somebody's own, whose state cannot be saved."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        raise AssertionError


class Foreign(Unsaved):
    """One whose state can be saved, but which Lightning does not know how to step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def sgd(module: Any) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def plateau(optimizer: Any) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


def with_optimizer(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda module: make(sgd(module))


WRONG_OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "string": (lambda module: "adam", "returned 'adam'. It has to return one of: an Optimizer"),
    "number": (lambda module: 0.1, "returned 0.1. It has to return one of"),
    "class": (lambda module: torch.optim.Adam, "It has to return one of"),
    "generator": (lambda module: (sgd(module) for _ in range(1)), "It has to return one of"),
    "list with something else": (lambda module: [sgd(module), "x"], "It has to return one of"),
    "optimizer and scheduler": (
        with_optimizer(lambda optimizer: (optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))),
        "It has to return one of",
    ),
    "empty list": (lambda module: [], r"returned \[\]"),
    "empty tuple": (lambda module: (), r"returned \(\)"),
    "empty lists": (lambda module: ([], []), r"returned \(\[\], \[\]\)"),
    "scheduler alone in lists": (
        lambda module: ([], [scheduler_of(sgd(module))["scheduler"]]),
        "configure_optimizers returned",
    ),
    "empty dictionary": (lambda module: {}, r"returned (\{\}|a dictionary whose \"optimizer\" is None)"),
    "dictionary without optimizer": (
        lambda module: {"lr_scheduler": scheduler_of(sgd(module))},
        'a dictionary whose "optimizer" is None',
    ),
    "dictionary with a class": (
        lambda module: {"optimizer": torch.optim.Adam},
        'a dictionary whose "optimizer" is <class',
    ),
    "scheduler of another optimizer": (
        lambda module: {"optimizer": sgd(module), "lr_scheduler": scheduler_of(sgd(module))},
        "whose optimizer it did not return as well",
    ),
    "scheduler dictionary without scheduler": (
        lambda module: {"optimizer": sgd(module), "lr_scheduler": {"interval": "step"}},
        'a scheduler dictionary without the key "scheduler"',
    ),
    "plateau without monitor": (
        with_optimizer(lambda optimizer: {"optimizer": optimizer, "lr_scheduler": plateau(optimizer)}),
        'without the "monitor".*"monitor": "val_loss"',
    ),
    "plateau without monitor, configured": (
        with_optimizer(lambda optimizer: {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau(optimizer)}}),
        'without the "monitor"',
    ),
    "plateau without monitor, in lists": (
        with_optimizer(lambda optimizer: ([optimizer], [plateau(optimizer)])),
        'without the "monitor"',
    ),
    "interval": (
        with_optimizer(lambda optimizer: ([optimizer], [scheduler_of(optimizer, interval="batch")])),
        'interval=\'batch\'; it is "step" or "epoch"',
    ),
    "scheduler without state": (
        with_optimizer(lambda optimizer: ([optimizer], [Unsaved(optimizer)])),
        "which has no state_dict and load_state_dict",
    ),
    "scheduler that nobody can step": (
        with_optimizer(lambda optimizer: ([optimizer], [Foreign(optimizer)])),
        "none of PyTorch's; define lr_scheduler_step",
    ),
    "two optimizers": (
        lambda module: [sgd(module), sgd(module)],
        "returned 2 optimizers.*self.automatic_optimization = False",
    ),
    "two dictionaries": (
        lambda module: ({"optimizer": sgd(module)}, {"optimizer": sgd(module)}),
        "returned 2 optimizers",
    ),
}


@pytest.mark.parametrize(("returned", "expected"), WRONG_OPTIMIZERS.values(), ids=WRONG_OPTIMIZERS)
def test_configure_optimizers_returns(lightning: ModuleType, returned: Callable[[Any], Any], expected: str) -> None:
    class Module(tiny(lightning)):
        returned: Any = None

        def configure_optimizers(self) -> Any:  # here: configure_optimizers
            return self.returned()

    module = Module()
    module.returned = lambda: returned(module)
    message = refuse(ConfigurationError, module, loader())
    assert message.startswith(f"{place('configure_optimizers')}: configure_optimizers ")
    assert re.search(expected, message, flags=re.DOTALL)
    module.returned = lambda: sgd(module)
    trains(module)


def test_configure_optimizers_forgets_to_return(lightning: ModuleType) -> None:
    class Module(tiny(lightning)):
        def configure_optimizers(self) -> None:  # here: forgotten return
            sgd(self)

    message = refuse(ConfigurationError, Module(), loader())
    assert message.startswith(f"{place('forgotten return')}: configure_optimizers returned None")


class Stream(IterableDataset[Any]):
    """Data without a length."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randn(self.samples, 1, 3))


def stream(samples: int = 16) -> DataLoader[Any]:
    return DataLoader(Stream(samples), batch_size=4)


WRONG_LOADERS: dict[str, tuple[Callable[[ModuleType], Any], str]] = {
    "object": (lambda lightning: object(), "which is no loader: it cannot be iterated"),
    "number": (lambda lightning: 4, "which is no loader: it cannot be iterated"),
    "list with a number": (lambda lightning: [loader(), 4], "which is no loader: it cannot be iterated"),
    "empty dataset": (lambda lightning: loader(0), r"an empty loader.*Is the dataset empty"),
    "empty list": (lambda lightning: [], "empty|no loader"),
    "drop_last": (lambda lightning: loader(3, drop_last=True), r"smaller than the batch size with drop_last=True"),
    "one of several is empty": (lambda lightning: [loader(), loader(0)], "an empty loader"),
    "empty stream": (lambda lightning: stream(0), "empty"),
    "sequential": (
        lambda lightning: importlib.import_module(f"{lightning.__name__}.utilities").CombinedLoader(
            [loader()], "sequential"
        ),
        'mode="sequential".*"max_size_cycle"',
    ),
}


class TestData:
    def test_no_training_loader(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):  # here: no training loader
            pass

        module = Module()
        message = refuse(ConfigurationError, module)
        assert message.startswith(
            f"{place('no training loader')}: there is no training loader. Define train_dataloader"
        )
        trains(module)

    def test_datamodule_without_training_loader(self, pl: ModuleType) -> None:
        class DataModule(pl.LightningDataModule):  # here: datamodule without training loader
            def val_dataloader(self) -> Any:
                return loader()

        module = tiny(pl)()
        message = refuse(ConfigurationError, module, datamodule=DataModule())
        assert "there is no training loader" in message
        assert place("datamodule without training loader") in message, "it is the data module that lacks it"
        trains(module)

    @pytest.mark.parametrize(("make", "expected"), WRONG_LOADERS.values(), ids=WRONG_LOADERS)
    def test_argument(self, pl: ModuleType, make: Callable[[ModuleType], Any], expected: str) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, make(pl))
        assert "train_dataloaders " in message
        assert re.search(expected, message)
        assert place("fit") in message
        trains(module)

    @pytest.mark.parametrize(
        ("make", "expected"),
        [*WRONG_LOADERS.values(), (lambda lightning: None, "returned None instead of a loader")],
        ids=[*WRONG_LOADERS, "None"],
    )
    def test_hook(self, lightning: ModuleType, make: Callable[[ModuleType], Any], expected: str) -> None:
        class Module(tiny(lightning)):
            def train_dataloader(self) -> Any:  # here: train_dataloader
                return make(lightning)

        module = Module()
        message = refuse(ConfigurationError, module)
        assert message.startswith(f"{place('train_dataloader')}: train_dataloader ")
        assert re.search(expected, message)
        trains(module)

    @pytest.mark.parametrize("make", [lambda: None, lambda: loader(0)], ids=["None", "empty"])
    def test_hook_of_the_datamodule(self, lightning: ModuleType, make: Callable[[], Any]) -> None:
        class DataModule(lightning.LightningDataModule):
            def train_dataloader(self) -> Any:  # here: train_dataloader of the datamodule
                return make()

        module, datamodule = tiny(lightning)(), DataModule()
        message = refuse(ConfigurationError, module, datamodule=datamodule)
        assert message.startswith(place("train_dataloader of the datamodule"))
        datamodule.train_dataloader = loader
        module.steps = 0
        train(module, datamodule=datamodule)
        assert module.steps == 1

    def test_validation_hook_returns_none(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

            def val_dataloader(self) -> None:  # here: val_dataloader
                return None

        message = refuse(ConfigurationError, Module(), loader())
        assert message.startswith(f"{place('val_dataloader')}: val_dataloader returned None instead of a loader")

    def test_validation_loader_cannot_be_iterated(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        message = refuse(ConfigurationError, Module(), loader(), object())
        assert "val_dataloaders gave" in message
        assert place("fit") in message

    @pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")
    @pytest.mark.parametrize("argument", ["train_dataloaders", "val_dataloaders"])
    def test_datamodule_together_with_loaders(self, pl: ModuleType, argument: str) -> None:
        datamodule = pl.LightningDataModule.from_datasets(TensorDataset(torch.randn(16, 3)), batch_size=4)
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, datamodule=datamodule, **{argument: loader()})
        assert "pass either a datamodule, or train_dataloaders and val_dataloaders" in message
        assert place("fit") in message
        train(module, datamodule=datamodule)

    def test_datamodule_is_none(self, lightning: ModuleType) -> None:
        class Data:
            def train_dataloader(self) -> Any:
                return loader()

        module = tiny(lightning)()
        message = refuse(ConfigurationError, module, datamodule=Data())
        assert message.startswith(f"{place('fit')}: datamodule is a ")
        assert "Data, which is no " in message
        assert "Loaders are passed as train_dataloaders" in message
        trains(module)

    def test_loader_in_the_place_of_the_datamodule(self, pl: ModuleType) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), datamodule=loader())
        assert "datamodule is a DataLoader, which is no pytorch_lightning" in message
        assert "Loaders are passed as train_dataloaders" in message
        assert place("fit") in message

    def test_datamodule_of_the_other_package(self, lightning: ModuleType) -> None:
        (other,) = set(NAMESPACES) - {lightning.__name__}
        datamodule = importlib.import_module(other).LightningDataModule()
        message = refuse(ConfigurationError, tiny(lightning)(), datamodule=datamodule)
        assert "module and data module have to come from the same package" in message

    def test_stream_with_a_length_in_epochs(self, pl: ModuleType) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, stream(), max_length=pytorch.Epoch(1))
        assert "train_dataloaders gave a loader without a length" in message
        assert "max_length and the periods as determined.pytorch.Batch(n)" in message
        assert place("fit") in message
        trains(module, stream())

    @pytest.mark.parametrize("period", ["validation_period", "checkpoint_period", "reporting_period"])
    def test_stream_with_a_period_in_epochs(self, pl: ModuleType, period: str) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), stream(), **{period: pytorch.Epoch(1)})
        assert "a loader without a length" in message

    def test_iterator_that_is_used_up(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def on_train_epoch_start(self) -> None:
                if self.current_epoch > 20:
                    raise RuntimeError("epochs without batches go on for ever")

        with pytest.raises(ConfigurationError, match="train_dataloaders"):
            train(Module(), (batch for batch in list(loader())), max_length=pytorch.Batch(6))

    @pytest.mark.parametrize("option", ["limit_train_batches", "limit_val_batches"])
    @pytest.mark.parametrize("value", [-1, -0.5, 1.5, 2.0, "all"], ids=repr)
    def test_limit(self, pl: ModuleType, option: str, value: Any) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, loader(), **{option: value})
        assert f"{option}={value!r} makes no sense; it is a number of batches, or a fraction of them" in message
        assert place("fit") in message
        trains(module)

    def test_limit_leaves_nothing(self, pl: ModuleType) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), loader(), limit_train_batches=0.1)
        assert "gave 4 batches, of which limit_train_batches=0.1 leaves none" in message
        assert "it has to be at least 0.25" in message
        assert place("fit") in message

    def test_limit_of_zero_is_named(self, pl: ModuleType) -> None:
        assert "limit_train_batches=0" in refuse(ConfigurationError, tiny(pl)(), loader(), limit_train_batches=0)

    def test_fraction_of_a_stream(self, pl: ModuleType) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), stream(), limit_train_batches=0.5)
        assert "of which limit_train_batches=0.5 is no number of batches" in message
        assert "give one." in message
        assert place("fit") in message


class TestLength:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (5, "max_length is 5"),
            ("5", "max_length is '5'"),
            (pytorch.Epoch([1, 2]), r"max_length is .*\[1, 2\]"),
            (pytorch.Batch([10]), r"max_length is .*\[10\]"),
            (pytorch.Epoch(1.5), r"max_length is .*1\.5"),  # type: ignore[arg-type]
            (pytorch.TrainUnit(5), "max_length is "),
            (pytorch.Epoch, "max_length is "),
        ],
        ids=["int", "string", "list of epochs", "list of batches", "float", "no unit", "class"],
    )
    def test_is_wrong(self, pl: ModuleType, value: Any, expected: str) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, loader(), max_length=value)
        assert message.startswith(f"{place('fit')}: max_length is ")
        assert re.search(expected, message)
        assert "max_length=determined.pytorch.Epoch(5) or determined.pytorch.Batch(1000)" in message
        trains(module)

    @pytest.mark.parametrize(
        ("value", "number"),
        [(pytorch.Epoch(0), "Epoch(0)"), (pytorch.Batch(-1), "Batch(-1)")],
        ids=["zero", "negative"],
    )
    def test_is_too_short(self, pl: ModuleType, value: Any, number: str) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), loader(), max_length=value)
        assert message == f"{place('fit')}: max_length is {number}; it has to be at least 1."

    def test_is_missing(self, pl: ModuleType) -> None:
        module = tiny(pl)()
        with pytest.raises(ConfigurationError) as caught:
            lightning_shim.fit(module, loader())  # here: without max_length
        assert str(caught.value).startswith(f"{place('without max_length')}: max_length is missing.")
        assert "max_length=determined.pytorch.Epoch(5)" in str(caught.value)
        assert module.steps == 0
        trains(module)

    def test_of_a_trial_is_wrong(self, pl: ModuleType) -> None:
        with (
            pytorch.init() as context,
            pytest.raises(ConfigurationError, match=r"max_length is 5.*determined.pytorch.Epoch"),
        ):
            lightning_shim.LightningTrial(context, tiny(pl)(), train_dataloaders=loader(), max_length=5)

    @pytest.mark.parametrize("period", ["validation_period", "checkpoint_period", "reporting_period"])
    @pytest.mark.parametrize("value", [1, "epoch"], ids=repr)
    def test_period_is_wrong(self, pl: ModuleType, period: str, value: Any) -> None:
        message = refuse(ConfigurationError, tiny(pl)(), loader(), **{period: value})
        assert f"{period} is {value!r}" in message
        assert place("fit") in message

    @pytest.mark.parametrize("period", ["validation_period", "checkpoint_period", "reporting_period"])
    def test_period_may_be_a_schedule(self, pl: ModuleType, period: str) -> None:
        trains(tiny(pl)(), loader(), **{period: pytorch.Batch([2, 3])})

    def test_length_of_a_trial_is_no_schedule(self, pl: ModuleType) -> None:
        with pytorch.init() as context, pytest.raises(ConfigurationError, match=r"max_length is .*\[10\]"):
            lightning_shim.LightningTrial(
                context, tiny(pl)(), train_dataloaders=loader(), max_length=pytorch.Batch([10])
            )


class TestOptions:
    @pytest.mark.parametrize("options", [{"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}], ids=str)
    def test_manual_optimization_does_it_by_hand(self, lightning: ModuleType, options: dict[str, Any]) -> None:
        module = tiny(lightning)()
        module.automatic_optimization = False
        message = refuse(ConfigurationError, module, loader(), **options)
        ((name, value),) = options.items()
        assert message.startswith(f"{place('fit')}: {name}={value} has no effect on {type(module).__qualname__}, which")
        module.automatic_optimization = True
        trains(module, **options, max_length=pytorch.Epoch(1))

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"precision": "fp8"}, "precision='fp8' is none of '32-true'"),
            ({"precision": "apex"}, "precision='apex' is none of '32-true'.*Apex"),
            ({"precision": 8}, "precision=8 is none of '32-true'"),
            (
                {"gradient_clip_algorithm": "foo"},
                "gradient_clip_algorithm='foo' makes no sense; it is 'norm'",
            ),
            ({"gradient_clip_val": "large"}, "gradient_clip_val='large'"),
            ({"find_unused_parameters": "yes"}, "find_unused_parameters='yes' makes no sense; it is True or False"),
            ({"sync_batchnorm": 1}, "sync_batchnorm=1 makes no sense; it is True or False"),
            ({"strategy": "ddp"}, 'pass find_unused_parameters=True for "ddp_find_unused_parameters_true"'),
            (
                {"accumulate_grad_batches": 0},
                "accumulate_grad_batches=0 makes no sense; it is a number",
            ),
            (
                {"accumulate_grad_batches": -2},
                "accumulate_grad_batches=-2 makes no sense; it is a number",
            ),
            (
                {"accumulate_grad_batches": 1.5},
                "accumulate_grad_batches=1.5 makes no sense; it is a number",
            ),
            ({"max_epochs": 5}, "fit has no option 'max_epochs'. Pass max_length=determined.pytorch.Epoch"),
            ({"detect_anomaly": True}, "fit has no option 'detect_anomaly'. Call torch.autograd.set_detect_anomaly"),
            ({"devices": 2}, "fit has no option 'devices'. Determined says on what to train"),
            ({"colour": "red"}, "fit has no option 'colour'. The options are module, .*hparams, .*precision"),
            ({"context": None}, "fit has no option 'context'. The options are"),
            ({"hparams": [1]}, "hparams=.1. is no dictionary"),
            ({"checkpoint_policy": "sometimes"}, "checkpoint_policy='sometimes'"),
        ],
        ids=str,
    )
    def test_is_refused(self, pl: ModuleType, options: dict[str, Any], expected: str) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, loader(), **options)
        assert re.search(expected, message)
        assert place("fit") in message
        trains(module)

    @pytest.mark.parametrize("option", ["limit_train_batches", "limit_val_batches"])
    def test_none_is_lightnings_default(self, pl: ModuleType, option: str) -> None:
        trains(tiny(pl)(), loader(), **{option: None})

    def test_refusal_leaves_the_module_to_lightning(self, lightning: ModuleType) -> None:
        module = tiny(lightning)()
        refuse(ConfigurationError, module, loader(0))
        trainer = fit_by_lightning(lightning, module, loader(), max_epochs=1)
        assert module.steps == 4
        assert module.trainer is trainer


WRONG_LOGS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "vector": (("x", torch.ones(2)), {}, r"a tensor of shape \(2,\); only one element.*x\.mean\(\)"),
    "empty tensor": (("x", torch.ones(0)), {}, r"a tensor of shape \(0,\)"),
    "dictionary": (("x", {"a": 1.0}), {}, "got a dict, which cannot be logged.*self.log_dict"),
    "nested dictionary": (("x", {"a": {"b": 1.0}}), {}, "got a dict.*unnested"),
    "string": (("x", "good"), {}, "got a str.*self.logger.experiment.add_text"),
    "None": (("x", None), {}, "got a NoneType"),
    "list": (("x", [1.0]), {}, "got a list"),
    "complex number": (("x", 1j), {}, "got a complex"),
    "neither": (("x", 1.0), {"on_step": False, "on_epoch": False}, "on_step=False with on_epoch=False logs nothing"),
    "reduction": (("x", 1.0), {"reduce_fx": "median"}, "reduce_fx='median' is none of mean, sum, min, max"),
    "index in the name": (("x/dataloader_idx_0", 1.0), {}, "add_dataloader_idx=False"),
    "removed argument": (("x", 1.0), {"sync_dist_op": "sum"}, "removed the argument sync_dist_op; pass reduce_fx"),
    "unknown argument": (("x", 1.0), {"in_epoch": True}, "Lightning has no argument in_epoch"),
    "name": ((3, 1.0), {}, "the name must be a string, not int"),
    "loose torchmetrics object": (("x", MeanMetric()), {}, "MeanMetric is no attribute of the module.*__init__"),
}


def refuse_log(module: Any, **options: Any) -> str:
    with pytest.raises(MetricError) as caught:
        train(module, loader(), **options)
    assert isinstance(caught.value, LightningShimError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


class TestLog:
    @pytest.mark.parametrize(("args", "options", "expected"), WRONG_LOGS.values(), ids=WRONG_LOGS)
    def test_log(self, lightning: ModuleType, args: Any, options: dict[str, Any], expected: str) -> None:
        class Module(tiny(lightning)):
            is_wrong = True

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if self.is_wrong:
                    self.log(*args, **options)  # here: log
                return super().training_step(batch, batch_idx)

        module = Module()
        message = refuse_log(module)
        assert message.startswith(f"{place('log')}: self.log({args[0]!r})")
        assert re.search(expected, message)
        assert checkpoints() == []
        module.is_wrong = False
        trains(module)

    @pytest.mark.parametrize(
        ("dictionary", "expected"),
        [
            ({"x": {"y": 1.0}}, r"self.log\('x'\) got a dict"),
            ({"x": torch.ones(2)}, r"self.log\('x'\) got a tensor of shape \(2,\)"),
            ([("x", 1.0)], "self.log_dict got a list; it takes a dictionary"),
            (None, "self.log_dict got a NoneType"),
        ],
        ids=["nested", "vector", "list", "None"],
    )
    def test_log_dict(self, lightning: ModuleType, dictionary: Any, expected: str) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.log_dict(dictionary)  # here: log_dict

        message = refuse_log(Module())
        assert message.startswith(f"{place('log_dict')}: ")
        assert re.search(expected, message)

    def test_name_twice(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("x", 1.0)
                self.log("x", 1.0, on_epoch=True, prog_bar=True)  # here: name twice
                return super().training_step(batch, batch_idx)

        message = refuse_log(Module())
        assert message.startswith(f"{place('name twice')}: self.log('x') was called twice in training_step")
        assert "prog_bar was False and is True, on_epoch was False and is True" in message
        assert "a name of its own" in message

    def test_name_for_a_metric_and_a_number(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def __init__(self) -> None:
                super().__init__()
                self.metric = MeanMetric()

            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.metric(1.0)
                self.log("x", self.metric, on_step=True, on_epoch=True)
                self.log("x", 1.0, on_step=True, on_epoch=True)  # here: number after metric

        message = refuse_log(Module())
        assert message.startswith(place("number after metric"))

    @pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_start"])
    def test_on_step_where_there_is_no_step(self, pl: ModuleType, hook: str) -> None:
        def log(self: Any) -> None:
            self.log("x", 1.0, on_step=True)  # here: no step

        with warns(
            RefusedMemberWarning, "no step", rf"^self\.log\(on_step=True\) in {hook} is refused when .* reached: "
        ):
            message = refuse_log(type("Module", (tiny(pl),), {hook: log})())
        assert message.startswith(f"{place('no step')}: self.log('x'): in {hook} only on_step=False")

    @pytest.mark.parametrize(
        "hook",
        ["configure_optimizers", "on_fit_start", "setup", "configure_model", "on_validation_end", "on_train_end"],
    )
    def test_hook_that_allows_no_logging(self, lightning: ModuleType, hook: str) -> None:
        def log(self: Any, *args: Any, **kwargs: Any) -> None:
            self.log("x", 1.0)  # here: no logging

        methods = {hook: log, "validation_step": lambda self, batch, batch_idx: None}
        with warns(RefusedMemberWarning, "no logging", rf"^self\.log in {hook} is refused when this line is reached: "):
            message = refuse_log(type("Module", (tiny(lightning),), methods)(), val_dataloaders=loader())
        assert message.startswith(f"{place('no logging')}: self.log('x'): Lightning allows no logging in {hook};")
        assert "self.logger.experiment" in message

    def test_while_the_loader_is_made(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def train_dataloader(self) -> Any:
                self.log("x", 1.0)  # here: log in train_dataloader
                return loader()

        with (
            warns(RefusedMemberWarning, "log in train_dataloader", "^self.log in train_dataloader is refused "),
            pytest.raises(MetricError) as caught,
        ):
            train(Module())
        assert str(caught.value).startswith(f"{place('log in train_dataloader')}: self.log('x') was called ")

    def test_after_training(self, lightning: ModuleType) -> None:
        module = tiny(lightning)()
        trains(module)
        with pytest.raises(MetricError) as caught:
            module.log("x", 1.0)  # here: log after training
        assert str(caught.value).startswith(f"{place('log after training')}: self.log('x') was called outside any hook")

    def test_in_a_helper_leads_to_the_helper(self, pl: ModuleType) -> None:
        def helper(module: Any) -> None:
            module.log("x", "text")  # here: log in a helper

        class Module(tiny(pl)):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                helper(self)

        assert refuse_log(Module()).startswith(place("log in a helper"))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


class TestCheckpoint:
    @pytest.fixture
    def module(self, pl: ModuleType) -> Any:
        return tiny(pl)()

    @pytest.fixture
    def checkpoint(self, pl: ModuleType) -> Path:
        path = train(tiny(pl)(), loader(), max_length=pytorch.Batch(2)).checkpoint_path
        assert isinstance(path, Path)
        return path

    def refused(self, module: Any, checkpoint: Any) -> str:
        return refuse(CheckpointError, module, loader(), latest_checkpoint=checkpoint, max_length=pytorch.Batch(4))

    @pytest.mark.parametrize("kind", [str, Path])
    def test_folder_is_missing(self, module: Any, tmp_path: Path, kind: Callable[[Path], Any]) -> None:
        message = self.refused(module, kind(tmp_path / "gone"))
        assert f"{tmp_path / 'gone'} is not there" in message
        assert "fit(...).checkpoint_path" in message
        trains(module)

    @pytest.mark.parametrize("other_checkpoints", [False, True])
    def test_uuid_is_unknown(self, module: Any, other_checkpoints: bool) -> None:
        if other_checkpoints:
            train(module, loader())
            module.steps = 0
        name = str(uuid.uuid4())
        message = self.refused(module, name)
        folder = Path(os.environ["XDG_DATA_HOME"], "determined")
        assert f"There is no checkpoint {name!r} in {folder}" in message
        trains(module)

    def test_file_instead_of_the_folder(self, module: Any, checkpoint: Path) -> None:
        message = self.refused(module, checkpoint / "state_dict.pth")
        assert "state_dict.pth" in message
        assert "is not there" not in message, "the file is there; it is its folder that is wanted"

    @pytest.mark.parametrize("name", ["state_dict.pth", "trial_state.pkl"])
    def test_file_is_missing(self, module: Any, checkpoint: Path, name: str) -> None:
        (checkpoint / name).unlink()
        before = contents(checkpoint)
        message = self.refused(module, checkpoint)
        assert f"{checkpoint / name} is missing" in message
        assert "Resume from another one" in message
        assert contents(checkpoint) == before
        trains(module)

    @pytest.mark.parametrize("damage", [cut_short, empty])
    @pytest.mark.parametrize("name", ["state_dict.pth", "trial_state.pkl"])
    def test_file_is_damaged(self, module: Any, checkpoint: Path, name: str, damage: Callable[[Path], None]) -> None:
        damage(checkpoint / name)
        before = contents(checkpoint)
        message = self.refused(module, checkpoint)
        assert f"{checkpoint / name} is damaged or cut short" in message
        assert "Resume from another one" in message
        assert contents(checkpoint) == before
        trains(module)

    @pytest.mark.parametrize("saved", [[1, 2], {"state_dict": {}}, None], ids=["list", "other keys", "None"])
    def test_file_holds_something_else(self, module: Any, checkpoint: Path, saved: Any) -> None:
        torch.save(saved, checkpoint / "state_dict.pth")
        before = contents(checkpoint)
        assert str(checkpoint) in self.refused(module, checkpoint)
        assert contents(checkpoint) == before
        trains(module)

    def test_trial_state_holds_something_else(self, module: Any, checkpoint: Path) -> None:
        (checkpoint / "trial_state.pkl").write_bytes(pickle.dumps([1, 2]))
        assert str(checkpoint) in self.refused(module, checkpoint)
        trains(module)

    def test_module_has_other_shapes(self, pl: ModuleType, checkpoint: Path) -> None:
        before = contents(checkpoint)
        message = self.refused(tiny(pl)(width=5), checkpoint)
        assert f"the checkpoint {checkpoint} does not fit this module" in message
        assert "size mismatch for layer.weight" in message
        assert contents(checkpoint) == before

    def test_module_has_other_parameters(self, pl: ModuleType, checkpoint: Path) -> None:
        module = tiny(pl)()
        module.more = torch.nn.Linear(1, 1)
        message = self.refused(module, checkpoint)
        assert f"the checkpoint {checkpoint} does not fit this module" in message
        assert "more.weight" in message

    @pytest.mark.parametrize("form", [lambda path: path, str, os.path.relpath, lambda path: path.name])
    def test_can_still_be_used(self, module: Any, checkpoint: Path, form: Callable[[Path], Any]) -> None:
        """What the other tests of this class rely on: undamaged, it is continued."""
        before = contents(checkpoint)
        passes = []
        module.layer.register_forward_hook(lambda *_: passes.append(None))
        train(module, loader(), latest_checkpoint=form(checkpoint), max_length=pytorch.Batch(3))
        # The module counts on from where it was.
        assert (len(passes), module.steps) == (1, 3)
        assert contents(checkpoint) == before

    def test_the_way_torch_loads_is_restored(self, module: Any, checkpoint: Path) -> None:
        (checkpoint / "state_dict.pth").write_bytes(b"")
        before = dict(os.environ)
        self.refused(module, checkpoint)
        assert dict(os.environ) == before


class TestStep:
    @pytest.mark.parametrize(
        "returned",
        ["loss", 0.5, {"los": torch.zeros(1)}, {}, [torch.zeros(1)]],
        ids=["string", "float", "no loss", "empty", "list"],
    )
    def test_returns(self, lightning: ModuleType, returned: Any) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:  # here: training_step
                return returned

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader())
        assert str(caught.value).startswith(f"{place('training_step')}: training_step returned {returned!r}; ")
        assert 'returns the loss, a dictionary with the key "loss", or None' in str(caught.value)

    def test_returns_in_manual_optimization(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> Any:  # here: manual training_step
                return "loss"

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader())
        assert str(caught.value).startswith(f"{place('manual training_step')}: training_step returned 'loss'; ")

    @pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=str)
    def test_returns_a_vector(self, lightning: ModuleType, shape: tuple[int, ...]) -> None:
        """The error is PyTorch's, as in Lightning, where `backward` of the user's own may reduce it."""

        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return self.layer(batch[0]).reshape(shape)

        with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
            train(Module(), loader())

    def test_optimizer_step_without_closure(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # here: optimizer_step
                pass

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader())
        assert str(caught.value).startswith(f"{place('optimizer_step')}: optimizer_step never called the closure")
        assert "optimizer.step(closure=optimizer_closure)" in str(caught.value)

    @pytest.mark.parametrize("logged", [(), ("loss", "accuracy")], ids=["nothing", "others"])
    def test_scheduler_follows_what_is_not_logged(self, lightning: ModuleType, logged: tuple[str, ...]) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                for name in logged:
                    self.log(name, 1.0, on_epoch=True)
                return super().training_step(batch, batch_idx)

            def configure_optimizers(self) -> Any:  # here: plateau
                optimizer = sgd(self)
                return {"optimizer": optimizer, "lr_scheduler": plateau(optimizer), "monitor": "val_loss"}

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader(), max_length=pytorch.Epoch(1))
        message = str(caught.value)
        assert message.startswith(f"{place('plateau')}: the scheduler follows 'val_loss'")
        for name in logged or ("no metrics",):
            assert name in message.partition("Logged are: ")[2]

    def test_scheduler_that_is_not_strict_warns(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def configure_optimizers(self) -> Any:  # here: lenient plateau
                optimizer = sgd(self)
                settings = {"scheduler": plateau(optimizer), "monitor": "val_loss", "strict": False}
                return {"optimizer": optimizer, "lr_scheduler": settings}

        with warns(DifferenceWarning, "lenient plateau", "'val_loss'.*The learning rate stays as it is"):
            train(Module(), loader(), max_length=pytorch.Epoch(1))


IGNORED_HOOKS = [
    (row.owner, row.name)
    for owner in ("LightningModule", "LightningDataModule")
    for row in members(owner, Support.IGNORED)
    if row.kind is Kind.HOOK
]


class TestWarnings:
    def test_a_clean_module_gives_none(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def __init__(self) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.metric = MeanMetric()

            def setup(self, stage: str) -> None:
                self.print(f"stage {stage} of {self.trainer.max_epochs} epochs")

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = super().training_step(batch, batch_idx)
                self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
                self.log("learning_rate", self.optimizers().param_groups[0]["lr"])
                return {"loss": loss}

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.metric(self.layer(batch[0]).mean())
                self.log("val_mean", self.metric)
                self.log_dict({"val_count": 1.0})

            def on_validation_epoch_end(self) -> None:
                self.log("val_end", 1.0)
                assert self.trainer.world_size == 1
                assert not self.trainer.sanity_checking

            def configure_optimizers(self) -> Any:
                optimizer = sgd(self)
                schedulers = [scheduler_of(optimizer, interval="step", frequency=2, name="lr")]
                return [optimizer], schedulers

        class DataModule(lightning.LightningDataModule):
            def train_dataloader(self) -> Any:
                return loader(shuffle=True)

            def val_dataloader(self) -> Any:
                return loader()

        with no_warnings_of_ours():
            train(
                Module,
                datamodule=DataModule,
                max_length=pytorch.Epoch(2),
                gradient_clip_val=1.0,
                callbacks=[lightning.Callback()],
            )

    @pytest.mark.parametrize(("owner", "name"), IGNORED_HOOKS)
    def test_ignored_hook(self, pl: ModuleType, owner: str, name: str) -> None:
        def hook(self: Any, *args: Any) -> None:  # here: ignored hook
            raise AssertionError(f"{name} was called")

        methods: dict[str, Any] = {name: hook}
        if owner == "LightningDataModule":
            methods["train_dataloader"] = lambda self: loader()
        module, datamodule, train_dataloaders = tiny(pl)(), None, None
        if owner == "LightningModule":
            module, train_dataloaders = type("Overriding", (tiny(pl),), methods)(), loader()
        else:
            datamodule = type("Overriding", (pl.LightningDataModule,), methods)()
        (row,) = [row for row in members(owner) if row.name == name]
        expected = f"^Overriding.{name} is ignored: {re.escape(row.sentence)}$"
        with warns(IgnoredMemberWarning, "ignored hook", expected):
            train(module, train_dataloaders, datamodule=datamodule)

    def test_ignored_hook_of_a_callback(self, pl: ModuleType) -> None:
        class Overriding(pl.Callback):
            def on_test_start(self, *args: Any) -> None:  # here: ignored hook of a callback
                raise AssertionError

        with warns(IgnoredMemberWarning, "ignored hook of a callback", "Overriding.on_test_start is ignored: "):
            train(tiny(pl)(), loader(), callbacks=[Overriding()])

    def test_lightnings_own_callbacks_give_none(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = super().training_step(batch, batch_idx)
                self.log("loss", loss, on_epoch=True)
                return loss

        with no_warnings_of_ours():
            train(Module(), loader(), callbacks=[lightning.callbacks.EarlyStopping("loss_epoch")])

    def test_ignored_hook_in_the_other_namespace(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            @torch.no_grad()
            def test_step(self, batch: Any, batch_idx: int) -> None:  # here: decorated test_step
                raise AssertionError

        with warns(IgnoredMemberWarning, "decorated test_step", "Module.test_step is ignored"):
            train(Module(), loader())

    def test_strict_raises_instead(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def test_step(self, batch: Any, batch_idx: int) -> None:  # here: strict test_step
                raise AssertionError

        lightning_shim.patch(strict=True)
        message = refuse(StrictModeError, Module(), loader())
        assert message.startswith(f"{place('strict test_step')}: ")

    def test_validation_step_without_loader(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                raise AssertionError

        with warns(DifferenceWarning, "fit", "a validation_step, but no validation loaders"):
            train(Module(), loader())

    def test_validation_loader_without_step(self, lightning: ModuleType) -> None:
        with warns(DifferenceWarning, "fit", "validation loaders, but no validation_step"):
            train(tiny(lightning)(), loader(), loader())

    def test_validation_that_is_switched_off_gives_none(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                raise AssertionError

        with no_warnings_of_ours():
            train(Module(), loader(), loader(), limit_val_batches=0)

    def test_integers_are_logged_with_a_warning(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("count", torch.tensor(3))  # here: integer tensor
                return super().training_step(batch, batch_idx)

        with warns(DifferenceWarning, "integer tensor", "a torch.int64 tensor is converted to torch.float32"):
            trial = train(Module(), loader(), max_length=pytorch.Batch(2), reporting_period=pytorch.Batch(1))
        assert trial.metrics["count"] == 3


class TestTrainerAttribute:
    @pytest.mark.parametrize("name", [row.name for row in members("Trainer", Support.IGNORED)])
    def test_ignored(self, pl: ModuleType, name: str) -> None:
        class Module(tiny(pl)):
            def on_train_start(self) -> None:
                with warns(IgnoredMemberWarning, "ignored attribute", f"^trainer.{name} is ignored: "):
                    assert getattr(self.trainer, name) is None  # here: ignored attribute
                self.seen = True

        module = Module()
        train(module, loader())
        assert module.seen

    @pytest.mark.parametrize("name", ["no_such_thing", "max_epoch", "_private", "__wrapped__"])
    def test_unknown(self, pl: ModuleType, name: str) -> None:
        class Module(tiny(pl)):
            def on_train_start(self) -> None:
                assert not hasattr(self.trainer, name)
                assert getattr(self.trainer, name, "default") == "default"
                with pytest.raises(AttributeError, match=name) as caught:
                    getattr(self.trainer, name)
                assert not isinstance(caught.value, LightningShimError)
                self.seen = True

        module = Module()
        train(module, loader())
        assert module.seen

    @pytest.mark.parametrize("name", [row.name for row in members("Trainer", Support.REFUSED)])
    def test_refused(self, pl: ModuleType, name: str) -> None:
        class Module(tiny(pl)):
            def on_train_start(self) -> None:
                assert not hasattr(self.trainer, name)
                getattr(self.trainer, name)  # here: refused attribute

        (row,) = [row for row in members("Trainer") if row.name == name]
        message = refuse(RefusedMemberError, Module(), loader())
        assert message == f"{place('refused attribute')}: trainer.{name} is refused: {row.sentence}"

    def test_set(self, pl: ModuleType) -> None:
        trainer = train(tiny(pl)(), loader()).trainer
        for row in members("Trainer", Support.BACKED):
            value = getattr(trainer, row.name)
            if row.name in FIXED:
                with pytest.raises(RefusedMemberError) as caught:
                    setattr(trainer, row.name, value)
                assert str(caught.value).endswith(f": trainer.{row.name} is refused: {FIXED_SENTENCE}")
            else:
                setattr(trainer, row.name, value)
                assert getattr(trainer, row.name) is value
        for name in ("of_the_user", "test_dataloaders"):
            setattr(trainer, name, [1])
            assert getattr(trainer, name) == [1]

    def test_profiler_is_lightnings_that_does_nothing(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                with self.trainer.profiler.profile("loss"):
                    return super().training_step(batch, batch_idx)

            def on_train_end(self) -> None:
                self.trainer.profiler.describe()
                assert self.trainer.profiler.summary() == ""
                self.seen = type(self.trainer.profiler)

        module = Module()
        train(module, loader())
        assert module.seen is lightning.profilers.PassThroughProfiler

    def test_length_that_is_not_known_yet(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def configure_optimizers(self) -> Any:
                self.trainer.estimated_stepping_batches  # noqa: B018  # here: unknown length
                return sgd(self)

        with pytorch.init() as context, pytest.raises(ConfigurationError) as caught:
            lightning_shim.LightningTrial(context, Module(), train_dataloaders=loader())
        assert str(caught.value).startswith(f"{place('unknown length')}: how long Determined will train")
        assert "max_length=determined.pytorch.Epoch(n)" in str(caught.value)
