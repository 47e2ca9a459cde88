"""What ``configure_optimizers`` may return, compared with Lightning's own reading of it."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from lightning_shim import ConfigurationError, DifferenceWarning, LightningShimWarning
from lightning_shim.loop.configured_optimizers import ConfiguredOptimizers, read_optimizers
from lightning_shim.upstream.lightning import lightning_of
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.places import place_in

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(16, 3)), batch_size=4)


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def step_lr(optimizer: torch.optim.Optimizer) -> lr_scheduler.StepLR:
    return lr_scheduler.StepLR(optimizer, 1)


def plateau(optimizer: torch.optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau:
    return lr_scheduler.ReduceLROnPlateau(optimizer)


def configured(scheduler: Any, **settings: Any) -> dict[str, Any]:
    return {"scheduler": scheduler, **settings}


def returning(lightning: ModuleType, returned: Any, automatic: bool = True) -> Any:
    """A module whose ``configure_optimizers`` returns that."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = automatic

        def training_step(self, batch: Any, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> Any:  # here: configure_optimizers
            return returned

    return Module()


def read(module: Any, steps_itself: bool = False) -> ConfiguredOptimizers:
    return read_optimizers(
        lightning_of(module),
        module.configure_optimizers(),
        module.configure_optimizers,
        automatic=module.automatic_optimization,
        steps_itself=steps_itself,
    )


def read_by_lightning(lightning: ModuleType, module: Any) -> ConfiguredOptimizers:
    core = importlib.import_module(f"{lightning.__name__}.core.optimizer")
    module.trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    return ConfiguredOptimizers(*core._init_optimizers_and_lr_schedulers(module))


def same(ours: ConfiguredOptimizers, theirs: ConfiguredOptimizers) -> None:
    """Compares the optimizers by identity, and every setting of the schedulers."""
    assert list(map(id, ours.optimizers)) == list(map(id, theirs.optimizers))
    ours_and_theirs = [
        [{entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)} for config in configs]
        for configs in (ours.lr_scheduler_configs, theirs.lr_scheduler_configs)
    ]
    assert ours_and_theirs[0] == ours_and_theirs[1]
    assert list(map(type, ours.lr_scheduler_configs)) == list(map(type, theirs.lr_scheduler_configs))


def with_one(make: Callable[[torch.optim.Optimizer], Any]) -> Callable[[], Any]:
    return lambda: make(sgd())


def with_two(make: Callable[[torch.optim.Optimizer, torch.optim.Optimizer], Any]) -> Callable[[], Any]:
    return lambda: make(sgd(), sgd())


SETTINGS = {"interval": "step", "frequency": 3, "name": "rate", "strict": False, "monitor": "loss"}

ONE_OPTIMIZER: dict[str, Callable[[], Any]] = {
    "optimizer": with_one(lambda one: one),
    "list": with_one(lambda one: [one]),
    "tuple": with_one(lambda one: (one,)),
    "dictionary": with_one(lambda one: {"optimizer": one}),
    "list of dictionaries": with_one(lambda one: [{"optimizer": one}]),
    "tuple of dictionaries": with_one(lambda one: ({"optimizer": one, "lr_scheduler": step_lr(one)},)),
    "lists": with_one(lambda one: ([one], [step_lr(one)])),
    "list of lists": with_one(lambda one: [[one], [step_lr(one)]]),
    "lists without schedulers": with_one(lambda one: ([one], [])),
    "lists, scheduler without its list": with_one(lambda one: ([one], step_lr(one))),
    "lists, settings without their list": with_one(lambda one: ([one], configured(step_lr(one), interval="step"))),
    "lists with settings": with_one(lambda one: ([one], [configured(step_lr(one), interval="step")])),
    "scheduler": with_one(lambda one: {"optimizer": one, "lr_scheduler": step_lr(one)}),
    "scheduler with settings": with_one(
        lambda one: {"optimizer": one, "lr_scheduler": configured(step_lr(one), **SETTINGS)}
    ),
    "scheduler with a monitor that it does not need": with_one(
        lambda one: {"optimizer": one, "lr_scheduler": step_lr(one), "monitor": "loss"}
    ),
    "plateau, monitor beside it": with_one(
        lambda one: {"optimizer": one, "lr_scheduler": plateau(one), "monitor": "loss"}
    ),
    "plateau, monitor in its settings": with_one(
        lambda one: {"optimizer": one, "lr_scheduler": configured(plateau(one), monitor="loss")}
    ),
    "plateau in lists": with_one(lambda one: ([one], [configured(plateau(one), monitor="loss", interval="step")])),
    "plateau by declaration": with_one(
        lambda one: ([one], [configured(step_lr(one), monitor="loss", reduce_on_plateau=True)])
    ),
    "plateau by declaration only in name": with_one(
        lambda one: ([one], [configured(plateau(one), reduce_on_plateau=False)])
    ),
    "two schedulers": with_one(
        lambda one: ([one], [step_lr(one), configured(lr_scheduler.ExponentialLR(one, 0.9), interval="step")])
    ),
    "chained": with_one(lambda one: ([one], [lr_scheduler.ChainedScheduler([step_lr(one), step_lr(one)])])),
    "sequential": with_one(
        lambda one: ([one], [lr_scheduler.SequentialLR(one, [step_lr(one), step_lr(one)], milestones=[2])])
    ),
    "one cycle": with_one(
        lambda one: ([one], [configured(lr_scheduler.OneCycleLR(one, 0.1, total_steps=9), interval="step")])
    ),
}

MANUAL: dict[str, Callable[[], Any]] = {
    "nothing": lambda: [],
    "nothing in lists": lambda: ([], []),
    "two": with_two(lambda one, two: [one, two]),
    "tuple": with_two(lambda one, two: (one, two)),
    "two and their schedulers": with_two(lambda one, two: ([one, two], [step_lr(one), step_lr(two)])),
    "two and one scheduler": with_two(lambda one, two: ([one, two], [configured(step_lr(two), interval="step")])),
    "two dictionaries": with_two(
        lambda one, two: ({"optimizer": one}, {"optimizer": two, "lr_scheduler": configured(step_lr(two), name="b")})
    ),
    "plateau": with_one(lambda one: ([one], [plateau(one)])),
    "plateau in a dictionary": with_one(lambda one: {"optimizer": one, "lr_scheduler": plateau(one)}),
    "other interval": with_one(lambda one: ([one], [configured(step_lr(one), interval="batch")])),
}


class TestAccepted:
    @pytest.mark.parametrize("make", ONE_OPTIMIZER.values(), ids=ONE_OPTIMIZER)
    @pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
    @pytest.mark.filterwarnings("ignore:The lr scheduler dict contains the key:RuntimeWarning")
    def test_one_optimizer(self, lightning: ModuleType, make: Callable[[], Any], automatic: bool) -> None:
        module = returning(lightning, make(), automatic)
        same(read(module), read_by_lightning(lightning, module))

    @pytest.mark.parametrize("make", MANUAL.values(), ids=MANUAL)
    def test_manual_optimization(self, lightning: ModuleType, make: Callable[[], Any]) -> None:
        module = returning(lightning, make(), automatic=False)
        same(read(module), read_by_lightning(lightning, module))

    @pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
    @pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`:UserWarning")
    def test_none(self, lightning: ModuleType, automatic: bool) -> None:
        module = returning(lightning, None, automatic)
        ours, theirs = read(module), read_by_lightning(lightning, module)
        assert list(map(type, ours.optimizers)) == list(map(type, theirs.optimizers))
        assert ours.lr_scheduler_configs == theirs.lr_scheduler_configs == []

    def test_what_was_returned_is_not_changed(self, lightning: ModuleType) -> None:
        optimizer = sgd()
        settings = configured(plateau(optimizer), monitor="loss")
        returned = {"optimizer": optimizer, "lr_scheduler": settings}
        read(returning(lightning, returned))
        assert returned == {"optimizer": optimizer, "lr_scheduler": settings}
        assert settings.keys() == {"scheduler", "monitor"}

    def test_scheduler_of_somebodys_own(self, lightning: ModuleType) -> None:
        class Own:
            def __init__(self, optimizer: Any) -> None:
                self.optimizer = optimizer

            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: dict[str, Any]) -> None: ...

        optimizer = sgd()
        module = returning(lightning, ([optimizer], [Own(optimizer)]))
        module.lr_scheduler_step = lambda scheduler, metric: None
        same(read(module, steps_itself=True), read_by_lightning(lightning, module))


REFUSED: dict[str, Callable[[], Any]] = {
    "string": lambda: "adam",
    "optimizer and scheduler": with_one(lambda one: (one, step_lr(one))),
    "optimizer and number": with_one(lambda one: [one, 1]),
    "lists and a number": with_one(lambda one: ([one, 1], [])),
    "tuple in the place of the list": with_one(lambda one: ((one,), [step_lr(one)])),
    "dictionaries and an optimizer": with_two(lambda one, two: [{"optimizer": one}, two]),
    "settings without a scheduler": with_one(lambda one: ([one], [{"interval": "step"}])),
    "plateau without monitor": with_one(lambda one: ([one], [plateau(one)])),
    "plateau in a list, monitor beside it": with_two(
        lambda one, two: (
            {"optimizer": one, "lr_scheduler": plateau(one), "monitor": "loss"},
            {"optimizer": two, "lr_scheduler": plateau(two), "monitor": "loss"},
        )
    ),
    "other interval": with_one(lambda one: ([one], [configured(step_lr(one), interval="batch")])),
    "scheduler of another": with_two(lambda one, two: ([one], [step_lr(two)])),
    "two optimizers": with_two(lambda one, two: [one, two]),
    "no scheduler": with_one(lambda one: ([one], [1])),
}


class TestRefused:
    @pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
    def test_by_both(self, lightning: ModuleType, make: Callable[[], Any]) -> None:
        module = returning(lightning, make())
        with pytest.raises(ConfigurationError) as caught:
            read(module)
        assert str(caught.value).startswith(f"{place('configure_optimizers')}: configure_optimizers returned ")
        # MisconfigurationException, RuntimeError, TypeError, or AttributeError where Lightning does not look first.
        with pytest.raises(Exception, match=r"."):
            read_by_lightning(lightning, module)

    @pytest.mark.parametrize(
        ("make", "automatic"),
        [
            (lambda: [], True),
            (lambda: ([], []), True),
            (lambda: ([], [step_lr(sgd())]), True),
            (lambda: ([], [step_lr(sgd())]), False),
            (lambda: {}, True),
            (lambda: {}, False),
        ],
        ids=["nothing", "no lists", "scheduler alone", "scheduler alone, manual", "no keys", "no keys, manual"],
    )
    def test_nothing_to_step(self, lightning: ModuleType, make: Callable[[], Any], automatic: bool) -> None:
        """Automatic optimization needs one optimizer, and a scheduler the optimizer that it schedules."""
        with pytest.raises(ConfigurationError) as caught:
            read(returning(lightning, make(), automatic))
        assert str(caught.value).startswith(f"{place('configure_optimizers')}: configure_optimizers returned ")


def configured_by(lightning: ModuleType, function: Callable[[Any], Any]) -> Any:
    """A module with that function as its ``configure_optimizers``."""
    module = returning(lightning, None)
    type(module).configure_optimizers = function
    return module


class TestNone:
    """With automatic optimization it is trained without an optimizer, unless a ``return`` has been forgotten."""

    def test_forgotten_return(self, lightning: ModuleType) -> None:
        def configure_optimizers(self: Any) -> None:  # here: forgotten return
            """Makes an optimizer."""
            optimizer = sgd()
            if self.current_epoch:
                return
            self.schedule = lambda: optimizer

        with pytest.raises(ConfigurationError) as caught:
            read(configured_by(lightning, configure_optimizers))
        message = str(caught.value)
        assert message.startswith(f"{place('forgotten return')}: configure_optimizers returned None, so that nothing")
        assert "has no `return` with a value" in message
        assert "write `return None`" in message

    def test_forgotten_return_before_super(self, lightning: ModuleType) -> None:
        class Child(type(returning(lightning, None))):  # type: ignore[misc]
            def configure_optimizers(self) -> None:  # here: super
                super().configure_optimizers()

        with pytest.raises(ConfigurationError, match="has no `return` with a value") as caught:
            read(Child())
        assert str(caught.value).startswith(place("super"))

    def test_return_of_a_function_inside_is_none_of_its_own(self, lightning: ModuleType) -> None:
        def configure_optimizers(self: Any) -> None:
            def rate(step: int) -> float:
                return 1.0

            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate(1))

        with pytest.raises(ConfigurationError, match="has no `return` with a value"):
            read(configured_by(lightning, configure_optimizers))

    def test_explicit(self, lightning: ModuleType) -> None:
        def configure_optimizers(self: Any) -> None:  # here: explicit None
            print("There is nothing to train.")
            return None  # noqa: RET501

        self.check_warning(lightning, configure_optimizers, "explicit None")

    def test_nothing_is_called(self, lightning: ModuleType) -> None:
        def configure_optimizers(self: Any) -> None:  # here: nothing called
            """There is nothing to train."""

        self.check_warning(lightning, configure_optimizers, "nothing called")

    def test_sometimes(self, lightning: ModuleType) -> None:
        def configure_optimizers(self: Any) -> Any:  # here: sometimes
            return sgd() if list(self.parameters()) else None

        self.check_warning(lightning, configure_optimizers, "sometimes")

    def check_warning(self, lightning: ModuleType, function: Callable[[Any], Any], where: str) -> None:
        with pytest.warns(DifferenceWarning) as caught:
            read(configured_by(lightning, function))
        (warning,) = caught
        assert "`LightningModule.configure_optimizers` returned `None`, this fit will run with no optimizer" in str(
            warning.message
        )
        assert "Is a `return` missing?" in str(warning.message)
        assert f"{warning.filename}:{warning.lineno}" == place(where)

    def test_source_that_nobody_has(self, lightning: ModuleType) -> None:
        names: dict[str, Any] = {}
        exec("def configure_optimizers(self): print(1)", names)
        with pytest.warns(DifferenceWarning, match="Is a `return` missing"):
            read(configured_by(lightning, names["configure_optimizers"]))

    def test_is_no_warning_in_manual_optimization(self, lightning: ModuleType) -> None:
        def configure_optimizers(self: Any) -> None:
            print("The step does it all by itself.")

        module = configured_by(lightning, configure_optimizers)
        module.automatic_optimization = False
        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            read(module)


class TestWarnings:
    @pytest.mark.parametrize(
        ("make", "automatic", "expected"),
        [
            (
                with_one(lambda one: {"optimizer": one, "scheduler": step_lr(one)}),
                True,
                r"unsupported keys .*: {'scheduler'}.*; those used are optimizer, lr_scheduler and monitor",
            ),
            (
                with_one(lambda one: ([one], [configured(step_lr(one), intervall="step")])),
                True,
                "unsupported keys in the lr scheduler dict: {'intervall'}",
            ),
            (
                with_one(lambda one: ([one], [lr_scheduler.OneCycleLR(one, 0.1, total_steps=9)])),
                True,
                "OneCycleLR.*Are you sure you didn't mean 'interval': 'step'",
            ),
            (
                with_one(lambda one: ([one], [configured(plateau(one), monitor="loss", strict=True)])),
                False,
                r"the key\(s\) \['monitor', 'strict'\], but the keys will be ignored",
            ),
        ],
        ids=["beside the optimizer", "of a scheduler", "one cycle", "manual optimization"],
    )
    def test_leads_to_the_hook(
        self, lightning: ModuleType, make: Callable[[], Any], automatic: bool, expected: str
    ) -> None:
        module = returning(lightning, make(), automatic)
        with pytest.warns(DifferenceWarning, match=expected) as caught:
            read(module)
        (warning,) = caught
        assert f"{warning.filename}:{warning.lineno}" == place("configure_optimizers")

    def test_what_has_no_effect_changes_nothing(self, lightning: ModuleType) -> None:
        optimizer = sgd()
        settings = configured(step_lr(optimizer), interval="step", patience=3)
        with pytest.warns(DifferenceWarning):
            (config,) = read(returning(lightning, ([optimizer], [settings]))).lr_scheduler_configs
        assert config.interval == "step"

    @pytest.mark.parametrize("name", ["manual", "automatic"])
    def test_a_plateau_without_settings_gives_none(self, lightning: ModuleType, name: str) -> None:
        optimizer = sgd()
        returned: dict[str, Any] = {"optimizer": optimizer, "lr_scheduler": plateau(optimizer)}
        if name == "automatic":
            returned["monitor"] = "loss"
        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            read(returning(lightning, returned, automatic=name == "automatic"))


class TestTraining:
    """The optimizers and schedulers as the module sees them while Determined trains it."""

    def test_they_are_the_users_own(self, lightning: ModuleType) -> None:
        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                assert isinstance(self.optimizers(), lightning.core.optimizer.LightningOptimizer)
                assert self.optimizers().optimizer is self.optimizer
                assert self.optimizers(use_pl_optimizer=False) is self.optimizer
                assert self.lr_schedulers() is self.scheduler
                assert self.trainer.optimizers == [self.optimizer]
                assert [config.scheduler for config in self.trainer.lr_scheduler_configs] == [self.scheduler]
                self.seen = True
                return self.layer(batch[0]).square().mean()

            def configure_optimizers(self) -> Any:
                self.optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
                self.scheduler = lr_scheduler.StepLR(self.optimizer, 1, gamma=0.5)
                return [self.optimizer], [self.scheduler]

        module = Module()
        lightning_shim.fit(module, loader(), max_length=pytorch.Epoch(2))
        assert module.seen
        assert module.optimizer.param_groups[0]["lr"] == 0.25

    @pytest.mark.parametrize("accumulate_grad_batches", [1, 3])
    @pytest.mark.parametrize(
        "settings",
        [{}, {"frequency": 2}, {"interval": "step"}, {"interval": "step", "frequency": 3}],
        ids=["epoch", "every other epoch", "step", "every third step"],
    )
    def test_learning_rates_are_lightnings(
        self, lightning: ModuleType, settings: dict[str, Any], accumulate_grad_batches: int
    ) -> None:
        def trained() -> tuple[Any, list[float]]:
            rates: list[float] = []

            class Module(lightning.LightningModule):
                def __init__(self) -> None:
                    super().__init__()
                    self.layer = torch.nn.Linear(3, 1)

                def training_step(self, batch: Any, batch_idx: int) -> Any:
                    rates.append(self.optimizers().param_groups[0]["lr"])
                    return self.layer(batch[0]).square().mean()

                def configure_optimizers(self) -> Any:
                    optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
                    return [optimizer], [configured(lr_scheduler.ExponentialLR(optimizer, 0.9), **settings)]

            return Module(), rates

        module, ours = trained()
        lightning_shim.fit(
            module, loader(), max_length=pytorch.Epoch(4), accumulate_grad_batches=accumulate_grad_batches
        )
        module, theirs = trained()
        fit_by_lightning(lightning, module, loader(), max_epochs=4, accumulate_grad_batches=accumulate_grad_batches)
        assert len(ours) == 16
        assert ours == theirs

    def test_manual_optimization_without_optimizers(self, lightning: ModuleType) -> None:
        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False
                self.count = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

            def training_step(self, batch: Any, batch_idx: int) -> None:
                assert self.optimizers() == []
                self.count += len(batch[0])

            def configure_optimizers(self) -> Any:
                return []

        trial = lightning_shim.fit(Module(), loader(), max_length=pytorch.Epoch(1))
        assert trial.module.count == 16
        assert trial.trainer.optimizers == []
