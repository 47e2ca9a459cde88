"""Properties of the metric collector, over random epochs of ``self.log`` calls.

It is compared with a plain reference that takes one value after the other, and with Lightning's own collection.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pytorch_lightning.trainer.connectors.logger_connector.fx_validator import _FxValidator
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor

from lightning_shim.diagnostics.errors import MetricError
from lightning_shim.metrics import logged_metric
from lightning_shim.metrics.collector import MetricCollector

Views = dict[str, dict[str, Tensor]]
"""Values by name, by where they are seen."""


class OnDevice(Tensor):
    """A tensor that says that it is on a device, where values are kept as tensors."""

    is_cpu = False  # type: ignore[assignment]


KINDS = {
    "float32": lambda value: torch.tensor(value, dtype=torch.float32),
    "float64": lambda value: torch.tensor(value, dtype=torch.float64),
    "float16": lambda value: torch.tensor(value, dtype=torch.float16),
    "bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
    "one element": lambda value: torch.tensor([[value]], dtype=torch.float32),
    "with a graph": lambda value: torch.tensor(value, dtype=torch.float32, requires_grad=True) * 1,
    "on a device": lambda value: torch.tensor(value, dtype=torch.float32).as_subclass(OnDevice),
    "float64 on a device": lambda value: torch.tensor(value, dtype=torch.float64).as_subclass(OnDevice),
    "int64": lambda value: torch.tensor(_whole(value)),
    "bool": lambda value: torch.tensor(value > 0),
    "number": float,
    "int": lambda value: _whole(value),
    "truth": lambda value: value > 0,
    "numpy32": np.float32,
    "numpy64": np.float64,
}
HOOKS = {
    True: ("training_step", "on_after_backward", "on_train_batch_end"),
    False: ("validation_step", "on_validation_batch_end"),
}
EPOCH_HOOKS = {True: ("on_train_epoch_end",), False: ("on_validation_epoch_end",)}


def _whole(value: float) -> int:
    return int(value) if abs(value) < 1e6 else 7


@dataclass(frozen=True)
class Name:
    """A name, and the arguments with which it is logged."""

    fx: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A call of ``self.log``, and whether somebody looks at the metrics after it."""

    name: Name
    kind: str
    number: float
    batch_size: int | None
    is_looked_at: bool

    def value(self) -> Any:
        return KINDS[self.kind](self.number)


@dataclass(frozen=True)
class Batch:
    samples: int
    calls: list[Call]
    is_saved: bool


@dataclass(frozen=True)
class Epoch:
    loaders: list[list[Batch]]
    last_calls: list[Call]


@dataclass(frozen=True)
class Run:
    training: bool
    epochs: list[Epoch]


NUMBERS = st.one_of(
    st.floats(-1000, 1000, width=32),
    st.sampled_from([0.0, -0.0, 0.1, 1e-30, 3e38, float("inf"), float("-inf"), float("nan")]),
)


@st.composite
def names(draw: st.DrawFn, hooks: tuple[str, ...], epoch_only: bool) -> Name:
    levels = [(None, None), (False, True)] if epoch_only else [(None, None), (True, False), (False, True), (True, True)]
    on_step, on_epoch = draw(st.sampled_from(levels))
    arguments = {
        "on_step": on_step,
        "on_epoch": on_epoch,
        "reduce_fx": draw(st.sampled_from(["mean", "sum", "min", "max", "AVG", torch.mean, torch.max, torch.min, sum])),
        "prog_bar": draw(st.booleans()),
        "logger": draw(st.sampled_from([None, True, False])),
        "add_dataloader_idx": draw(st.booleans()),
    }
    return Name(draw(st.sampled_from(hooks)), draw(st.sampled_from("abc")), arguments)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    training = draw(st.booleans())
    key = lambda name: (name.fx, name.name)  # noqa: E731

    def calls(hooks: tuple[str, ...], epoch_only: bool) -> Any:
        known = draw(st.lists(names(hooks, epoch_only), min_size=1, max_size=4, unique_by=key))
        return st.lists(
            st.builds(
                Call,
                name=st.sampled_from(known),
                kind=st.sampled_from(list(KINDS)),
                number=NUMBERS,
                batch_size=st.none() | st.integers(0, 50),
                is_looked_at=st.booleans(),
            ),
            max_size=4,
        )

    batches = st.lists(
        st.builds(
            Batch, samples=st.integers(1, 9), calls=calls(HOOKS[training], epoch_only=False), is_saved=st.booleans()
        ),
        max_size=4,
    )
    loaders = st.lists(batches, min_size=1, max_size=1 if training else 3)
    epochs = st.builds(Epoch, loaders=loaders, last_calls=calls(EPOCH_HOOKS[training], epoch_only=True))
    return Run(training, draw(st.lists(epochs, min_size=1, max_size=3)))


class Side(Protocol):
    """What keeps metrics, in the words of the collector."""

    def start_batch(self, batch: Any, dataloader_idx: int | None) -> None: ...
    def log(self, fx: str, name: str, value: Any, **arguments: Any) -> None: ...
    def end_batch(self) -> None: ...
    def end_dataloader(self) -> None: ...
    def end_batches(self) -> None: ...
    def reset(self) -> None: ...
    def save_and_load(self) -> None: ...
    def views(self, on_step: bool) -> Views: ...


class Ours:
    """The collector that is tested."""

    def __init__(self, training: bool) -> None:
        self._make = lambda: MetricCollector(training, extract_batch_size, dict)
        self.collector = self._make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collector, name)

    def log(self, fx: str, name: str, value: Any, **arguments: Any) -> None:
        self.collector.log(fx, (name, value), arguments)

    def save_and_load(self) -> None:
        file = io.BytesIO()
        torch.save(self.collector.state_dict(), file)
        file.seek(0)
        self.collector = self._make()
        self.collector.load_state_dict(torch.load(file, weights_only=True), {})

    def views(self, on_step: bool) -> Views:
        views = self.collector.collect(on_step)
        if on_step:
            reported = self.collector.step_values()
            assert _bits(reported) == _bits({name: float(value) for name, value in views.logged.items()})
        return {"callback": views.callback, "log": views.logged, "pbar": views.progress_bar}

    def epoch_of_all_loaders(self) -> dict[str, Tensor]:
        """What is reported."""
        return self.collector.collect(on_step=False, every_dataloader=True).logged


class Lightnings:
    """Lightning's collection, with what ``LightningModule.log`` and ``_LoggerConnector`` do around it."""

    def __init__(self, training: bool) -> None:
        self.results = _ResultCollection(training)
        self.fx: str | None = None
        self.is_first: bool | None = None

    def start_batch(self, batch: Any, dataloader_idx: int | None) -> None:
        self.is_first = self.is_first is None
        self.results.batch, self.results.batch_size, self.results.dataloader_idx = batch, None, dataloader_idx

    def log(self, fx: str, name: str, value: Any, **arguments: Any) -> None:
        if not isinstance(value, Tensor):
            double = torch.get_default_dtype() == torch.float64
            value = torch.tensor(value, dtype=torch.float64 if double else torch.float32)
        if self.fx != fx and self.is_first is not False:
            self.results.reset(metrics=False, fx=fx)
        levels = (arguments.pop("on_step"), arguments.pop("on_epoch"))
        on_step, on_epoch = _FxValidator.check_logging_and_get_default_levels(fx, *levels)
        arguments["logger"] = arguments["logger"] is not False
        self.results.log(fx, name, torch.squeeze(value), on_step=on_step, on_epoch=on_epoch, **arguments)
        self.fx = fx

    def end_batch(self) -> None:
        self.results.batch = self.results.batch_size = None

    def end_dataloader(self) -> None:
        self.is_first = None

    def end_batches(self) -> None:
        self.is_first = self.results.dataloader_idx = None

    def reset(self) -> None:
        self.results.reset()
        self.is_first = self.fx = None

    def save_and_load(self) -> None:
        """Lightning loses them; nothing may be lost."""

    def views(self, on_step: bool) -> Views:
        views = self.results.metrics(on_step)
        return {**views, "pbar": {name: torch.as_tensor(value) for name, value in views["pbar"].items()}}


def plain(reduction: str, values: list[Any], sizes: list[int]) -> Any:
    """Reduces values one after the other, each rounded to the precision that it has."""
    total = np.float32({"min": "inf", "max": "-inf"}.get(reduction, 0))
    for value, size in zip(values, sizes, strict=True):
        if reduction == "mean":
            total = total + value * type(value)(size)
        elif reduction == "sum":
            total = total + value
        else:
            total = (np.minimum if reduction == "min" else np.maximum)(total, value)
    return total / type(total)(sum(sizes)) if reduction == "mean" else total


def _bits(values: dict[str, Any]) -> dict[str, Any]:
    """Makes values comparable, as by ``torch.equal``, but NaN is NaN."""
    bits = {}
    for name, value in values.items():
        tensor = torch.as_tensor(value)
        number = tensor.item()
        bits[name] = (str(tensor.dtype), "nan" if number != number else (number + 0.0).hex())
    return bits


def _assert_same(ours: Views, theirs: Views, where: str) -> None:
    assert {kind: list(values) for kind, values in ours.items()} == {
        kind: list(values) for kind, values in theirs.items()
    }, where
    for kind, values in ours.items():
        if kind == "pbar":
            # They become numbers when they are shown.
            values, expected = ({name: float(value) for name, value in side[kind].items()} for side in (ours, theirs))
        else:
            expected = theirs[kind]
        assert _bits(values) == _bits(expected), f"{kind} {where}"


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DETERMINISTIC = settings(
    derandomize=True,
    max_examples=250,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    # The fixtures of all tests prepare folders and look for patches; nothing in them depends on the example.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def quiet(test: Any) -> Any:
    """Lets a test do what is warned about: both sides convert, and warn; NumPy's warnings have a test of their own."""
    for message in (
        "ignore:(overflow|invalid value) encountered in:RuntimeWarning",
        "ignore:You called `self.log.* but the value needs to be floating",
        "ignore:.*tensor is converted to torch.float:lightning_shim.DifferenceWarning",
    ):
        test = pytest.mark.filterwarnings(message)(test)
    return test


@quiet
@DETERMINISTIC
@given(
    run=runs(),
    fold_after=st.sampled_from([1, 2, 3, 4096]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_as_lightning(run: Run, fold_after: int, dtype: torch.dtype) -> None:
    ours, theirs = Ours(run.training), Lightnings(run.training)
    sides: tuple[Side, Side] = (ours, theirs)
    with mock.patch.object(logged_metric, "FOLD_AFTER", fold_after), _default_dtype(dtype):
        for number, epoch in enumerate(run.epochs):
            reported: dict[str, Tensor] = {}
            for index, batches in enumerate(epoch.loaders):
                dataloader_idx = index if len(epoch.loaders) > 1 else None
                for batch in batches:
                    for side in sides:
                        side.start_batch(torch.zeros(batch.samples), dataloader_idx)
                    _play(sides, batch.calls, dataloader_idx, f"in epoch {number}")
                    for on_step in (True, False):
                        _assert_same(ours.views(on_step), theirs.views(on_step), f"after a batch of epoch {number}")
                    for side in sides:
                        side.end_batch()
                        if batch.is_saved and run.training:
                            side.save_and_load()
                for side in sides:
                    side.end_dataloader()
                reported.update(theirs.views(on_step=False)["log"])
            for side in sides:
                side.end_batches()
            _play(sides, epoch.last_calls, None, f"at the end of epoch {number}")
            reported.update(theirs.views(on_step=False)["log"])
            _assert_same(ours.views(on_step=False), theirs.views(on_step=False), f"of epoch {number}")
            assert _bits(ours.epoch_of_all_loaders()) == _bits(reported)
            for side in sides:
                side.reset()
            assert not any(ours.views(on_step=False).values())


def _play(sides: tuple[Side, Side], calls: list[Call], dataloader_idx: int | None, where: str) -> None:
    for call in calls:
        arguments = call.name.arguments
        # A name without the index of the loader has to be another one for each.
        name = call.name.name if arguments["add_dataloader_idx"] else f"{call.name.name}_of_{dataloader_idx}"
        for side in sides:
            side.log(call.name.fx, name, call.value(), batch_size=call.batch_size, **arguments)
        if call.is_looked_at:
            for on_step in (True, False):
                _assert_same(sides[0].views(on_step), sides[1].views(on_step), where)


@quiet
@DETERMINISTIC
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(["mean", "sum", "min", "max"]),
            st.sampled_from(list(KINDS)),
            NUMBERS,
            st.none() | st.integers(0, 50),
            st.sampled_from(["nothing", "looks", "saves", "ends the batch", "ends the epoch"]),
        ),
        max_size=40,
    ),
    fold_after=st.sampled_from([1, 2, 3, 4096]),
)
def test_as_plain_arithmetic(calls: list[tuple[str, str, float, int | None, str]], fold_after: int) -> None:
    side = Ours(training=True)
    kept: dict[str, tuple[list[Any], list[int]]] = {}
    samples = 3

    def compare() -> None:
        with np.errstate(all="ignore"):
            expected = {f"{reduction}_epoch": plain(reduction, *logged) for reduction, logged in kept.items()}
        assert _bits(side.views(on_step=False)["log"]) == _bits(expected)

    with mock.patch.object(logged_metric, "FOLD_AFTER", fold_after):
        side.start_batch(torch.zeros(samples))
        for reduction, kind, number, size, afterwards in calls:
            value = KINDS[kind](number)
            side.log(
                "training_step", reduction, value, on_step=True, reduce_fx=reduction, on_epoch=True, batch_size=size
            )
            values, sizes = kept.setdefault(reduction, ([], []))
            values.append((np.float64 if kind.startswith("float64") else np.float32)(torch.as_tensor(value).item()))
            sizes.append(samples if size is None else size)
            if afterwards == "looks":
                compare()
            elif afterwards == "saves":
                side.end_batch()
                side.save_and_load()
                side.start_batch(torch.zeros(samples))
            elif afterwards != "nothing":
                side.end_batch()
                if afterwards == "ends the epoch":
                    side.end_batches()
                    compare()
                    side.reset()
                    kept.clear()
                samples = samples % 7 + 1
                side.start_batch(torch.zeros(samples))
        compare()


def both_after(kind: str, numbers: list[float], reduction: Any) -> Iterator[tuple[Views, Views]]:
    """Logs values in one batch, and gives the views of both sides, on the step and of the epoch."""
    sides: list[Any] = [Ours(training=True), Lightnings(training=True)]
    for side in sides:
        side.start_batch(torch.zeros(2), None)
        for number in numbers:
            arguments = {"on_step": True, "on_epoch": True, "logger": None, "reduce_fx": reduction}
            side.log("training_step", "a", KINDS[kind](number), **arguments)
    for on_step in (True, False):
        ours, theirs = (side.views(on_step) for side in sides)
        yield ours, theirs


@pytest.mark.parametrize("reduction", ["mean", "sum", "min", "max"])
@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("float32", [3e38, 3e38]), ("float32", [float("inf"), float("-inf")]), ("number", [1e300, 1.0])],
    ids=str,
)
def test_values_beyond_all_bounds(kind: str, numbers: list[float], reduction: str) -> None:
    """They become infinite, or NaN, silently, as tensors do."""
    for ours, theirs in both_after(kind, numbers, reduction):
        _assert_same(ours, theirs, "")


@pytest.mark.parametrize("reduction", [min, max])
def test_python_reductions_pass_over_nan(reduction: Any) -> None:
    """For Lightning they are other functions than ``"min"`` and ``"max"``, which give NaN."""
    for ours, theirs in both_after("float32", [1.0, float("nan"), 2.0], reduction):
        _assert_same(ours, theirs, "")


def test_one_name_for_several_loaders() -> None:
    """Lightning refuses it, since their values would be mixed."""
    for side, error in ((Lightnings(training=False), Exception), (Ours(training=False), MetricError)):
        side.start_batch(torch.zeros(1), 0)
        arguments = {"on_step": False, "on_epoch": True, "logger": None, "add_dataloader_idx": False}
        side.log("validation_step", "a", 1.0, **arguments)
        side.start_batch(torch.zeros(1), 1)
        with pytest.raises(error, match="different"):
            side.log("validation_step", "a", 2.0, **arguments)
