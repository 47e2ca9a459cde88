"""The patch of LightningModule: all or nothing, undone by identity, and inert on a module without a trial."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
import io
import pickle
import pydoc
import sys
import threading
import typing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias
from unittest import mock

import cloudpickle
import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import torchmetrics
import wrapt
from torch.utils.data import DataLoader

import lightning_shim
from lightning_shim import DifferenceWarning, PatchError, PatchWarning, StrictModeError
from lightning_shim.diagnostics import warn as _warnings
from lightning_shim.patching import lightning_module as patches
from lightning_shim.patching.attachment import Attached
from tests.support.given_warnings import forget_given_warnings
from tests.support.installed_versions import ALL_OF_THE_FILE

METHODS = (
    "log",
    "log_dict",
    "print",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "toggle_optimizer",
    "backward",
    "manual_backward",
)
PROPERTIES = ("trainer", "logger", "loggers")
LIGHTNINGS = (pytorch_lightning, lightning.pytorch)

Entries: TypeAlias = list[dict[str, object]]


class Steps:
    """What a user writes, for either namespace's LightningModule; it is defined here so that it can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.dropout = torch.nn.Dropout(0.5)
        self.mean = torchmetrics.MeanMetric()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.layer(features)).sum(dim=1)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self(batch["features"]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"epoch": float(self.trainer.current_epoch), "batch": float(batch_idx)})
        self.print(f"batch {batch_idx} of epoch {self.current_epoch}, step {self.global_step}")
        self.mean(loss)
        self.log("mean", self.mean)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("epoch_end", float(self.trainer.callback_metrics["loss"]))
        self.logger.log_metrics({"by_hand": float(len(self.loggers))})

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self(batch["features"]).square().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        total = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=total)}


class PytorchLightningModule(Steps, pytorch_lightning.LightningModule):
    pass


class LightningPytorchModule(Steps, lightning.pytorch.LightningModule):
    pass


USERS_CLASSES = {pytorch_lightning: PytorchLightningModule, lightning.pytorch: LightningPytorchModule}


@pytest.fixture(params=LIGHTNINGS, ids=lambda module: module.__name__)
def pl(request: pytest.FixtureRequest) -> ModuleType:
    """Lightning, under either of its names."""
    return request.param


@pytest.fixture
def module(pl: ModuleType) -> Any:
    torch.manual_seed(0)
    return USERS_CLASSES[pl]()


@pytest.fixture(autouse=True)
def unpatches_after_a_failure() -> Iterator[None]:
    yield
    lightning_shim.unpatch()


def entries_now() -> Entries:
    return [dict(vars(pl.LightningModule)) for pl in LIGHTNINGS]


def changed_since(before: Entries) -> set[str]:
    """The names whose entries are others now, the same in both classes."""
    changes = []
    for entries, present in zip(before, entries_now(), strict=True):
        assert present.keys() == entries.keys()
        changes.append({name for name, entry in entries.items() if present[name] is not entry})
    assert changes[0] == changes[1]
    return changes[0]


def is_strict() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _warnings.warn_at_caller("is it strict?", DifferenceWarning)
        except StrictModeError:
            return True
    return False


# On and off.


def test_patch_and_unpatch() -> None:
    before = entries_now()
    lightning_shim.patch()
    assert lightning_shim.is_patched()
    assert changed_since(before) == {*METHODS, *PROPERTIES}
    lightning_shim.unpatch()
    assert not lightning_shim.is_patched()
    assert changed_since(before) == set()


def test_patch_twice_is_patch_once() -> None:
    before = entries_now()
    lightning_shim.patch()
    once = entries_now()
    lightning_shim.patch()
    assert changed_since(once) == set()
    lightning_shim.unpatch()
    assert not lightning_shim.is_patched()
    assert changed_since(before) == set()


def test_unpatch_without_patch_does_nothing() -> None:
    before = entries_now()
    lightning_shim.unpatch()
    lightning_shim.patch()
    lightning_shim.unpatch()
    lightning_shim.unpatch()
    assert changed_since(before) == set()


def test_import_of_monkey_patch_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    before = entries_now()
    monkeypatch.delitem(sys.modules, "monkey_patch", raising=False)
    importlib.import_module("monkey_patch")
    assert lightning_shim.is_patched()
    assert changed_since(before) == {*METHODS, *PROPERTIES}
    lightning_shim.unpatch()
    assert changed_since(before) == set()


def test_determined_is_not_touched() -> None:
    from determined import pytorch

    classes = [value for value in vars(pytorch).values() if inspect.isclass(value)]
    before = [dict(vars(value)) for value in classes]
    with lightning_shim.patched():
        for value, entries in zip(classes, before, strict=True):
            assert dict(vars(value)) == entries


# The context manager.


def test_patched_restores() -> None:
    before = entries_now()
    with lightning_shim.patched():
        assert lightning_shim.is_patched()
        assert changed_since(before) == {*METHODS, *PROPERTIES}
    assert not lightning_shim.is_patched()
    assert changed_since(before) == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_patched_restores_after_an_error(error: type[BaseException]) -> None:
    before = entries_now()
    with pytest.raises(error), lightning_shim.patched(strict=True):
        raise error
    assert not lightning_shim.is_patched()
    assert not is_strict()
    assert changed_since(before) == set()


def test_patched_nests() -> None:
    before = entries_now()
    with lightning_shim.patched():
        with lightning_shim.patched(), lightning_shim.patched():
            pass
        assert lightning_shim.is_patched()
        assert changed_since(before) == {*METHODS, *PROPERTIES}
    assert changed_since(before) == set()


def test_patched_stays_patched() -> None:
    before = entries_now()
    lightning_shim.patch()
    with lightning_shim.patched():
        pass
    assert lightning_shim.is_patched()
    assert changed_since(before) == {*METHODS, *PROPERTIES}
    lightning_shim.unpatch()


def test_patched_decorates() -> None:
    @lightning_shim.patched()
    def decorated() -> bool:
        return lightning_shim.is_patched()

    assert [decorated(), decorated()] == [True, True]
    assert not lightning_shim.is_patched()


def test_patched_takes_an_unpatch_inside() -> None:
    before = entries_now()
    with lightning_shim.patched(strict=True):
        lightning_shim.unpatch()
        assert changed_since(before) == set()
    assert not lightning_shim.is_patched()
    assert not is_strict()


def test_patched_is_strict_within() -> None:
    with lightning_shim.patched(strict=True):
        assert is_strict()
    assert not is_strict()


@pytest.mark.parametrize("inner", [False, True], ids=["inner lenient", "inner strict"])
@pytest.mark.parametrize("outer", [False, True], ids=["outer lenient", "outer strict"])
def test_patched_gives_strictness_back(outer: bool, inner: bool) -> None:
    lightning_shim.patch(strict=outer)
    with lightning_shim.patched(strict=inner):
        assert is_strict() is inner
    assert is_strict() is outer
    lightning_shim.unpatch()


# All or nothing.


def passing(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return wrapped(*args, **kwargs)


@pytest.mark.parametrize("table", [patches.METHODS, patches.PROPERTIES], ids=["method", "property"])
def test_absent_member_undoes_the_rest(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = entries_now()
    monkeypatch.setitem(table, "no_such_member", passing)
    with pytest.raises(PatchError, match=r"LightningModule\.no_such_member cannot be patched: there is no such"):
        lightning_shim.patch(strict=True)
    assert not lightning_shim.is_patched()
    assert not is_strict()
    assert changed_since(before) == set()
    monkeypatch.undo()
    with lightning_shim.patched():
        assert changed_since(before) == {*METHODS, *PROPERTIES}


def test_failure_keeps_the_patch_that_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    before = entries_now()
    lightning_shim.patch(strict=True)
    patched = entries_now()
    monkeypatch.setitem(patches.METHODS, "no_such_member", passing)
    with pytest.raises(PatchError):
        lightning_shim.patch(strict=False)
    assert lightning_shim.is_patched()
    assert is_strict()
    assert changed_since(patched) == set()
    lightning_shim.unpatch()
    assert changed_since(before) == set()


class Refusing(type):
    """A metaclass that lets nobody replace the entry that is wrapped last."""

    error: type[BaseException] = TypeError

    def __setattr__(cls, name: str, value: object) -> None:
        if name == "loggers":
            raise cls.error("I refuse")
        super().__setattr__(name, value)


def stand_in(**changes: object) -> type:
    """A class like LightningModule, but for some entries; None leaves an entry out."""
    entries: dict[str, object] = {name: lambda *_: None for name in METHODS}
    entries |= {name: property(lambda _: None) for name in PROPERTIES}
    metaclass = changes.pop("metaclass", type)
    assert isinstance(metaclass, type)
    return metaclass("StandIn", (), {name: entry for name, entry in (entries | changes).items() if entry is not None})


@pytest.mark.parametrize(
    ("class_of_third", "error"),
    [
        (stand_in(metaclass=Refusing), PatchError),
        (stand_in(metaclass=type("Interrupted", (Refusing,), {"error": KeyboardInterrupt})), KeyboardInterrupt),
        (stand_in(log_dict=None), PatchError),
        (stand_in(trainer=None), PatchError),
        (stand_in(trainer="no property"), PatchError),
        (stand_in(logger=property()), PatchError),
    ],
    ids=["refuses", "interrupts", "no method", "no property", "plain attribute", "no getter"],
)
def test_failure_in_the_last_class_undoes_the_others(
    class_of_third: type, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = entries_now()
    before_of_third = dict(vars(class_of_third))
    third = SimpleNamespace(LightningModule=class_of_third)
    monkeypatch.setitem(sys.modules, "third.core.module", typing.cast(ModuleType, third))
    monkeypatch.setattr(patches, "NAMESPACES", (*patches.NAMESPACES, "third"))
    with pytest.raises(error):
        lightning_shim.patch(strict=True)
    assert not lightning_shim.is_patched()
    assert not is_strict()
    assert changed_since(before) == set()
    assert dict(vars(class_of_third)) == before_of_third


# Threads.


def in_threads(*functions: Callable[[], object]) -> list[BaseException]:
    """Runs functions at the same time, with the interpreter switching as often as it can; returns what they raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def work(function: Callable[[], object]) -> None:
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(function,)) for function in functions]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return errors


@pytest.mark.parametrize("last", [lightning_shim.patch, lightning_shim.unpatch], ids=["patch", "unpatch"])
def test_threads_patch_and_unpatch(last: Callable[[], None]) -> None:
    before = entries_now()

    def patch_and_unpatch() -> None:
        for _ in range(50):
            lightning_shim.patch()
            lightning_shim.unpatch()
        last()

    assert in_threads(*[patch_and_unpatch] * 8) == []
    # Whoever was last, nothing is half patched.
    assert changed_since(before) == ({*METHODS, *PROPERTIES} if lightning_shim.is_patched() else set())
    lightning_shim.unpatch()
    assert changed_since(before) == set()


def test_module_can_be_used_while_others_patch(module: Any) -> None:
    before = entries_now()
    stop = threading.Event()

    def patch_and_unpatch() -> None:
        try:
            for _ in range(200):
                lightning_shim.patch()
                lightning_shim.unpatch()
        finally:
            stop.set()

    def use() -> None:
        while not stop.is_set():
            assert module.logger is None
            assert module.loggers == []
            with pytest.raises(RuntimeError, match="is not attached to a `Trainer`"):
                _ = module.trainer
            assert callable(module.log)

    assert in_threads(patch_and_unpatch, use, use) == []
    assert changed_since(before) == set()


# Somebody else's patch on top.


@pytest.mark.parametrize("name", [*METHODS, *PROPERTIES])
def test_later_patch_is_reported_and_left(pl: ModuleType, name: str) -> None:
    before = entries_now()
    theirs = mock.sentinel.theirs
    lightning_shim.patch()
    with mock.patch.object(pl.LightningModule, name, theirs):
        with pytest.warns(PatchWarning) as record:
            lightning_shim.unpatch()
        assert [warning.filename for warning in record] == [__file__]
        assert f"{pl.__name__}.core.module.LightningModule.{name} has been patched again" in str(record[0].message)
        assert "sentinel.theirs" in str(record[0].message)
        assert vars(pl.LightningModule)[name] is theirs
        assert not lightning_shim.is_patched()
        others = [
            (owner.LightningModule, other)
            for owner, entries in zip(LIGHTNINGS, before, strict=True)
            for other in entries
            if (owner, other) != (pl, name)
        ]
        entries_of = {owner.LightningModule: entries for owner, entries in zip(LIGHTNINGS, before, strict=True)}
        assert all(vars(owner)[other] is entries_of[owner][other] for owner, other in others)
    assert vars(pl.LightningModule)[name] is not entries_of[pl.LightningModule][name]
    lightning_shim.unpatch()
    assert changed_since(before) == set()


def test_patch_between_goes_on_with_what_is_there(pl: ModuleType) -> None:
    before = entries_now()
    lightning_shim.patch()
    with mock.patch.object(pl.LightningModule, "log"), pytest.warns(PatchWarning):
        lightning_shim.unpatch()
    lightning_shim.patch()
    assert changed_since(before) == {*METHODS, *PROPERTIES}
    lightning_shim.unpatch()
    assert changed_since(before) == set()


def test_warning_as_an_error_restores_the_rest(pl: ModuleType) -> None:
    before = entries_now()
    lightning_shim.patch(strict=True)
    with mock.patch.object(pl.LightningModule, "log"):
        # The configuration of the tests makes it an error; strict mode is over by then.
        with pytest.raises(PatchWarning):
            lightning_shim.unpatch()
        assert not lightning_shim.is_patched()
        assert not is_strict()
    lightning_shim.unpatch()
    assert changed_since(before) == set()


def test_warning_at_the_end_of_patched_points_at_it(pl: ModuleType) -> None:
    theirs = mock.patch.object(pl.LightningModule, "log")
    with pytest.warns(PatchWarning) as record, lightning_shim.patched():
        theirs.start()
    assert [warning.filename for warning in record] == [__file__]
    theirs.stop()
    lightning_shim.unpatch()


def test_earlier_patch_of_somebody_else_is_called_and_left(pl: ModuleType, module: Any) -> None:
    calls = []

    def theirs(self: Any, name: str, value: float) -> None:
        calls.append((self, name, value))

    with mock.patch.object(pl.LightningModule, "log", theirs):
        with lightning_shim.patched():
            module.log("x", 1.0)
            pl.LightningModule.log(module, "y", value=2.0)
        assert vars(pl.LightningModule)["log"] is theirs
    assert calls == [(module, "x", 1.0), (module, "y", 2.0)]


# Attached.


class Recorder:
    """Keeps the calls of the methods that are asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def record(self, name: str, *args: Any, **kwargs: Any) -> str:
        self.calls.append((name, args, kwargs))
        return f"{name} was answered"


class StandInTrainer(Attached):
    logger = mock.sentinel.logger
    loggers = (mock.sentinel.logger,)
    progress_bar_callback = None

    def __init__(self) -> None:
        self.recorder = Recorder()
        self._lightning_shim_facade = self

    @property
    def metrics(self) -> Any:
        methods = {name: functools.partial(self.recorder.record, name) for name in ("log", "log_dict")}
        return SimpleNamespace(collector=SimpleNamespace(**methods))

    def print(self, *args: Any, **kwargs: Any) -> Any:
        return self.recorder.record("print", *args, **kwargs)


@pytest.mark.usefixtures("patched")
def test_attached_module_is_answered_by_its_trainer(module: Any, pl: ModuleType) -> None:
    trainer = StandInTrainer()
    module.trainer = trainer
    module._current_fx_name = "training_step"
    assert module.trainer is trainer
    assert module.logger is mock.sentinel.logger
    assert module.loggers == (mock.sentinel.logger,)
    assert module.log("x", 1.0, prog_bar=True) == "log was answered"
    assert pl.LightningModule.log_dict(module, {"x": 1.0}, on_step=False) == "log_dict was answered"
    assert module.print("a", "b", sep="-") == "print was answered"
    assert trainer.recorder.calls == [
        ("log", ("training_step", ("x", 1.0), {"prog_bar": True}), {}),
        ("log_dict", ("training_step", {"x": 1.0}), {"on_step": False}),
        ("print", ("a", "b"), {"sep": "-"}),
    ]


@pytest.mark.usefixtures("patched")
def test_nested_module_is_attached_with_its_parent(module: Any) -> None:
    trainer = StandInTrainer()
    module.child = type(module)()
    module.trainer = trainer
    module.child.log("x", 1.0)
    assert trainer.recorder.calls == [("log", (None, ("x", 1.0), {}), {})]


@pytest.mark.usefixtures("patched")
def test_module_is_detached_again(module: Any) -> None:
    trainer = StandInTrainer()
    module.trainer = trainer
    module.trainer = None
    with pytest.raises(RuntimeError, match="is not attached to a `Trainer`"):
        _ = module.trainer
    with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered"):
        module.log("x", 1.0)
    assert trainer.recorder.calls == []


@pytest.mark.usefixtures("patched")
def test_override_sees_the_call_first(module: Any) -> None:
    class Overriding(type(module)):
        def log(self, name: str, value: float, **kwargs: Any) -> Any:
            return super().log(f"prefix/{name}", value, **kwargs)

        @property
        def logger(self) -> Any:
            return (super().logger, "overridden")

    overriding = Overriding()
    overriding.trainer = StandInTrainer()
    assert overriding.log("x", 1.0, prog_bar=True) == "log was answered"
    assert overriding.trainer.recorder.calls == [("log", (None, ("prefix/x", 1.0), {"prog_bar": True}), {})]
    assert overriding.logger == (mock.sentinel.logger, "overridden")


def test_attached_module_is_lightnings_after_unpatch(module: Any) -> None:
    with lightning_shim.patched():
        module.trainer = StandInTrainer()
        kept = module.log
    calls = module.trainer.recorder.calls
    assert module.logger is mock.sentinel.logger
    with pytest.raises(AttributeError):
        module.log("x", 1.0)
    assert calls == []
    module.trainer = None
    # What was taken from the class while it was patched still calls through.
    with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered"):
        kept("x", 1.0)


# Inert unless attached. Each is done without the patch and with it, and has to come out the same.


@dataclasses.dataclass
class Outcome:
    returned: Any = None
    raised: str | None = None
    printed: str = ""
    warned: list[tuple[str, str, str, int]] = dataclasses.field(default_factory=list)


def outcome_of(function: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> Outcome:
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            outcome.returned = function()
        except Exception as error:
            outcome.raised = f"{type(error).__name__}: {error}"
    outcome.printed = capsys.readouterr().out
    outcome.warned = [
        (warning.category.__name__, str(warning.message), warning.filename, warning.lineno) for warning in record
    ]
    return outcome


def assert_same_outcome(function: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> Outcome:
    forget_given_warnings()
    without = outcome_of(function, capsys)
    forget_given_warnings()
    with lightning_shim.patched():
        assert outcome_of(function, capsys) == without
    return without


USES: dict[str, Callable[[ModuleType, Any], Any]] = {
    "log": lambda _, module: module.log("x", 1.0),
    "log by keywords": lambda _, module: module.log(name="x", value=1.0, prog_bar=True),
    "log_dict": lambda _, module: module.log_dict({"x": 1.0}),
    "print": lambda _, module: module.print("a", "b", sep="-"),
    "trainer": lambda _, module: module.trainer,
    "hasattr of trainer": lambda _, module: hasattr(module, "trainer"),
    "logger": lambda _, module: module.logger,
    "loggers": lambda _, module: module.loggers,
    "current_epoch": lambda _, module: (module.current_epoch, module.global_step, module.global_rank),
    "wrong arguments": lambda _, module: module.log("x", 1.0, no_such_argument=True),
    "too few arguments": lambda _, module: module.log(),
    "unbound log": lambda pl, module: pl.LightningModule.log(module, "x", 1.0),
    "unbound log_dict": lambda pl, module: pl.LightningModule.log_dict(module, dictionary={"x": 1.0}),
    "unbound print": lambda pl, module: pl.LightningModule.print(module, "a"),
    "unbound getter": lambda pl, module: pl.LightningModule.logger.fget(module),
    "through the user's class": lambda _, module: type(module).log(module, "x", 1.0),
    "through super": lambda _, module: super(type(module), module).log("x", 1.0),
    "through a partial": lambda _, module: functools.partial(module.log, "x", prog_bar=True)(1.0),
}
WRONG_USES_OF_PROPERTIES: dict[str, Callable[[ModuleType, Any], Any]] = {
    "logger is read-only": lambda _, module: setattr(module, "logger", 1),
    "trainer is there to stay": lambda _, module: delattr(module, "trainer"),
}
UNBOUND_USES: dict[str, Callable[[ModuleType, Any], Any]] = {
    "self by keyword": lambda pl, module: pl.LightningModule.log(self=module, name="x", value=1.0),
    "no self": lambda pl, _: pl.LightningModule.log(),
    "no self, but keywords": lambda pl, _: pl.LightningModule.log(name="x", value=1.0),
    "self is a mock": lambda pl, _: pl.LightningModule.print(mock.Mock(**{"trainer.progress_bar_callback": None}), "a"),
}
LOOKS: dict[str, Callable[[ModuleType, Any], Any]] = {
    "signature": lambda pl, _: [inspect.signature(getattr(pl.LightningModule, name)) for name in METHODS],
    "signature of the bound": lambda _, module: [inspect.signature(getattr(module, name)) for name in METHODS],
    "argument specification": lambda _, module: [inspect.getfullargspec(getattr(module, name)) for name in METHODS],
    "type hints": lambda pl, _: typing.get_type_hints(pl.LightningModule.log),
    "source": lambda pl, _: [inspect.getsource(getattr(pl.LightningModule, name)) for name in METHODS],
    "documentation": lambda pl, _: [inspect.getdoc(vars(pl.LightningModule)[name]) for name in (*METHODS, *PROPERTIES)],
    "pydoc of log": lambda pl, _: pydoc.plaintext.document(pl.LightningModule.log),
    "pydoc of a user's class": lambda _, module: pydoc.render_doc(type(module)),
    "names": lambda pl, _: [
        (entry.__name__, entry.__qualname__, entry.__module__) for entry in [pl.LightningModule.log]
    ],
    "is a function": lambda pl, _: (
        inspect.isfunction(pl.LightningModule.log),
        inspect.isroutine(pl.LightningModule.log),
    ),
    "is a method": lambda _, module: (inspect.ismethod(module.log), module.log.__self__ is module),
    "equality": lambda pl, module: (module.log == module.log, pl.LightningModule.log == type(module).log),
    "hash": lambda _, module: len({module.log, module.log}),
    "dir": lambda _, module: dir(module),
    "kinds": lambda pl, _: [
        (entry.name, entry.kind, entry.defining_class) for entry in inspect.classify_class_attrs(pl.LightningModule)
    ],
    "property": lambda pl, _: [
        (type(entry), entry.fset, entry.fdel, entry.__doc__, inspect.signature(entry.fget))
        for entry in (vars(pl.LightningModule)[name] for name in PROPERTIES)
    ],
    "is_overridden": lambda pl, module: [
        importlib.import_module(f"{pl.__name__}.utilities.model_helpers").is_overridden(name, module)
        for name in (*METHODS, "training_step", "on_fit_start")
    ],
    "autospec": lambda _, module: mock.create_autospec(type(module).log, spec_set=True)(module, "x", 1.0) is not None,
}


@pytest.mark.parametrize("use", USES)
def test_unattached_module_acts_as_before(
    use: str, pl: ModuleType, module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_same_outcome(lambda: USES[use](pl, module), capsys)


@pytest.mark.parametrize("use", UNBOUND_USES)
def test_unbound_call_acts_as_before(use: str, pl: ModuleType, module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert_same_outcome(lambda: UNBOUND_USES[use](pl, module), capsys)


@pytest.mark.parametrize("use", WRONG_USES_OF_PROPERTIES)
def test_wrong_use_of_a_property_is_the_same_error(
    use: str, pl: ModuleType, module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert assert_same_outcome(lambda: WRONG_USES_OF_PROPERTIES[use](pl, module), capsys).raised is not None


@pytest.mark.parametrize("look", LOOKS)
def test_class_looks_as_before(look: str, pl: ModuleType, module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert assert_same_outcome(lambda: LOOKS[look](pl, module), capsys).raised is None


def test_unattached_module_acts_as_lightning_does(pl: ModuleType, module: Any) -> None:
    # What was compared above is what Lightning does: a comparison of two mistakes would pass as well.
    with lightning_shim.patched():
        with pytest.raises(RuntimeError, match=f"^{type(module).__name__} is not attached to a `Trainer`"):
            _ = module.trainer
        with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered") as record:
            module.log("x", 1.0)
        assert record[0].filename == inspect.getsourcefile(pl.LightningModule)


def test_setter_of_trainer_works(pl: ModuleType, module: Any) -> None:
    trainer = make_trainer(pl)
    module.child = type(module)()
    with lightning_shim.patched():
        module.trainer = trainer
        assert module.trainer is trainer
        assert module.child.trainer is trainer
        assert module.logger is trainer.logger
        pl.LightningModule.trainer.fset(module, None)
        with pytest.raises(RuntimeError, match="is not attached"):
            _ = module.trainer


def test_override_calls_through(pl: ModuleType, module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Overriding(type(module)):
        def log(self, name: str, *args: Any, **kwargs: Any) -> None:
            print(name)
            super().log(name, *args, **kwargs)

        @property
        def trainer(self) -> Any:
            print("trainer")
            return super().trainer

        @trainer.setter
        def trainer(self, trainer: Any) -> None:
            pl.LightningModule.trainer.fset(self, trainer)

    overriding = Overriding()
    outcome = assert_same_outcome(lambda: overriding.log("x", 1.0), capsys)
    assert outcome.printed == "x\n"
    assert len(outcome.warned) == 1
    assert assert_same_outcome(lambda: overriding.trainer, capsys).raised is not None


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


def save_and_load(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES["torch.save"] = save_and_load


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("way", COPIES)
def test_module_can_be_copied(way: str, module: Any) -> None:
    copied = COPIES[way](module)
    assert type(copied) is type(module)
    assert copied is not module
    assert torch.equal(copied.layer.weight, module.layer.weight)
    with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered"):
        copied.log("x", 1.0)


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("way", COPIES)
def test_class_can_be_copied(way: str, module: Any) -> None:
    assert COPIES[way](type(module)) is type(module)


@pytest.mark.usefixtures("patched")
def test_pickle_can_be_read_where_nothing_is_patched(module: Any) -> None:
    module.trainer = StandInTrainer()
    for pickled in (pickle.dumps(module), cloudpickle.dumps(module)):
        assert b"lightning_shim" not in pickled
        assert b"wrapt" not in pickled


@pytest.mark.usefixtures("patched")
def test_local_class_can_be_cloudpickled(pl: ModuleType) -> None:
    class Local(pl.LightningModule):
        def log(self, name: str, value: float) -> str:
            super().log(name, value)
            return "logged"

    copied = COPIES["cloudpickle"](Local())
    assert isinstance(copied, pl.LightningModule)
    with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered"):
        assert copied.log("x", 1.0) == "logged"


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("way", COPIES)
def test_module_that_keeps_its_log_can_be_copied(way: str, module: Any) -> None:
    module.log_function = module.log
    module.log_partial = functools.partial(module.log, prog_bar=True)
    copied = COPIES[way](module)
    with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered"):
        copied.log_function("x", 1.0)
    with pytest.warns(UserWarning, match=r"`self\.trainer` reference is not registered"):
        copied.log_partial("x", 1.0)


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_function_of_the_class_can_be_copied(way: str, pl: ModuleType) -> None:
    assert COPIES[way](pl.LightningModule.log) == pl.LightningModule.log


# TorchScript, and torch.compile.


class Scriptable(torch.nn.Module):
    """The part of a user's module that TorchScript can read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(features))


def scriptable(pl: ModuleType) -> Any:
    class Module(Scriptable, pl.LightningModule):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.log("loss", self(batch).sum())
            return self(batch).sum()

    torch.manual_seed(0)
    return Module()


@pytest.mark.parametrize("attached", [False, True], ids=["unattached", "attached"])
@pytest.mark.parametrize(
    "convert",
    [
        lambda module: module.to_torchscript(),
        lambda module: module.to_torchscript(method="trace", example_inputs=torch.ones(1, 3)),
        torch.jit.script,
        lambda module: torch.jit.trace(module, torch.ones(1, 3)),
    ],
    ids=["to_torchscript", "to_torchscript by tracing", "torch.jit.script", "torch.jit.trace"],
)
def test_torchscript(
    convert: Callable[[Any], Any], attached: bool, pl: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def use() -> tuple[str, list[float]]:
        module = scriptable(pl)
        if attached:
            module.trainer = make_trainer(pl)
        converted = convert(module)
        return converted.code, converted(torch.ones(1, 3)).flatten().tolist()

    assert_same_outcome(use, capsys)


def test_to_torchscript_succeeds(pl: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with lightning_shim.patched():
        outcome = outcome_of(lambda: scriptable(pl).to_torchscript()(torch.ones(1, 3)).shape, capsys)
    assert (outcome.raised, outcome.returned) == (None, (1, 2))
    assert {category for category, *_ in outcome.warned} <= {"DeprecationWarning", "LightningDeprecationWarning"}


@pytest.mark.parametrize("attached", [False, True], ids=["unattached", "attached"])
def test_compiled_forward_has_no_more_graph_breaks(
    attached: bool, pl: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    class Module(Scriptable, pl.LightningModule):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            scale = self.current_epoch + (2 if self.logger is None else 1)
            return super().forward(features) * scale

    def use() -> list[list[float]]:
        torch.compiler.reset()
        torch.manual_seed(0)
        module = Module()
        if attached:
            module.trainer = make_trainer(pl)
        return torch.compile(module, backend="eager", fullgraph=True)(torch.ones(1, 3)).tolist()

    assert assert_same_outcome(use, capsys).raised is None


# Lightning's own Trainer.


def make_trainer(pl: ModuleType, **options: Any) -> Any:
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**(defaults | quiet | options))


def make_logger(pl: ModuleType) -> Any:
    class Recording(pl.loggers.logger.Logger):
        name = "recording"
        version = 0

        def __init__(self) -> None:
            super().__init__()
            self.logged: list[tuple[int | None, dict[str, float]]] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.logged.append((step, metrics))

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    return Recording()


def collate(samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    # Two sizes: self.log has to guess how large the batch is, and warns about it.
    return {"features": torch.stack(samples), "weights": torch.ones(7)}


def loader(shuffle: bool) -> DataLoader[torch.Tensor]:
    samples = torch.arange(24.0).reshape(8, 3) / 24
    return DataLoader(list(samples), batch_size=3, shuffle=shuffle, collate_fn=collate)


def fit(pl: ModuleType, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    module = USERS_CLASSES[pl]()
    logger = make_logger(pl)
    trainer = make_trainer(pl, max_epochs=2, logger=logger, log_every_n_steps=1, **options)
    trainer.fit(module, loader(shuffle=True), loader(shuffle=False))
    return module, trainer


def results(module: Any, trainer: Any) -> dict[str, Any]:
    return {
        "weights": {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        "logged": trainer.logger.logged,
        "callback_metrics": {name: value.item() for name, value in trainer.callback_metrics.items()},
        "progress": (trainer.current_epoch, trainer.global_step),
    }


def test_fit_is_the_same(pl: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: set[str] = set()

    def spied(name: str, wrapper: patches.Wrapper) -> patches.Wrapper:
        def spy(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            calls.add(name)
            return wrapper(wrapped, instance, args, kwargs)

        return spy

    for name, wrapper in patches.METHODS.items():
        monkeypatch.setitem(patches.METHODS, name, spied(name, wrapper))

    runs: list[tuple[Any, Any]] = []

    def run() -> dict[str, Any]:
        forget_given_warnings()
        runs.append(fit(pl))
        return results(*runs[-1])

    without = outcome_of(run, capsys)
    assert calls == set()
    with lightning_shim.patched():
        patched = outcome_of(run, capsys)
    # The others are for manual optimization.
    assert calls == set(METHODS) - {"manual_backward", "toggle_optimizer"}
    assert without.raised is None
    assert patched == without
    assert outcome_of(run, capsys) == without

    # What was compared is something: it trained, logged, printed and warned.
    (first, _), (second, _), _ = runs
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    torch.manual_seed(0)
    assert not torch.equal(first.layer.weight, USERS_CLASSES[pl]().layer.weight)
    names = {name for _, metrics in without.returned["logged"] for name in metrics}
    assert {"loss_step", "loss_epoch", "batch", "mean", "epoch_end", "val_loss", "by_hand"} <= names
    assert "batch 2 of epoch 1, step 5" in without.printed
    assert any("Trying to infer the `batch_size`" in message for _, message, *_ in without.warned)


def test_patch_during_fit_changes_nothing(pl: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    class Switching(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            (lightning_shim.unpatch if batch_idx % 2 else lightning_shim.patch)()

    without = outcome_of(lambda: results(*fit(pl)), capsys)
    switched = outcome_of(lambda: results(*fit(pl, callbacks=[Switching()])), capsys)
    lightning_shim.unpatch()
    assert switched.raised is None
    assert switched.returned == without.returned


def test_checkpoint_is_the_same(pl: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def save_load_and_resume() -> tuple[Any, ...]:
        path = tmp_path / "lightning.ckpt"
        module, trainer = fit(pl)
        trainer.save_checkpoint(path)
        loaded = type(module).load_from_checkpoint(path)
        resumed = make_trainer(pl, max_epochs=3, logger=make_logger(pl))
        resumed.fit(loaded, loader(shuffle=True), loader(shuffle=False), ckpt_path=path, **ALL_OF_THE_FILE)
        checkpoint = torch.load(path, weights_only=False)
        return sorted(checkpoint), results(module, trainer), results(loaded, resumed)

    assert assert_same_outcome(save_load_and_resume, capsys).raised is None


def test_wrong_use_of_log_is_the_same_error(pl: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    class Wrong(USERS_CLASSES[pl]):
        def configure_optimizers(self) -> Any:
            self.log("x", 1.0)

    def use() -> None:
        make_trainer(pl, max_epochs=1).fit(Wrong(), loader(shuffle=True))

    outcome = assert_same_outcome(use, capsys)
    assert outcome.raised is not None
    assert outcome.raised.startswith("MisconfigurationException: You can't `self.log")


def test_other_loops_are_the_same(pl: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    class Tested(USERS_CLASSES[pl]):
        def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
            self.log("test_loss", self(batch["features"]).mean())

        def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> list[float]:
            self.print("predicting")
            return self(batch["features"]).tolist()

    def use() -> list[Any]:
        torch.manual_seed(0)
        module, trainer = Tested(), make_trainer(pl)
        return [run(module, loader(shuffle=False)) for run in (trainer.validate, trainer.test, trainer.predict)]

    outcome = assert_same_outcome(use, capsys)
    assert outcome.raised is None
    assert [sorted(result) for result in outcome.returned[0] + outcome.returned[1]] == [["val_loss"], ["test_loss"]]


def test_wrappers_are_wrapts(pl: ModuleType) -> None:
    with lightning_shim.patched():
        assert all(isinstance(vars(pl.LightningModule)[name], wrapt.FunctionWrapper) for name in METHODS)
        assert all(isinstance(vars(pl.LightningModule)[name].fget, wrapt.FunctionWrapper) for name in PROPERTIES)
