"""A wrong self.log call gets an error with its line."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric

from lightning_shim import LightningShimError, MetricError
from tests.support.places import place_in
from tests.support.refusals import checkpoints, train, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


WRONG_LOGS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "vector": (("x", torch.ones(2)), {}, r"the tensor must have a single element. Its shape is \(2,\)"),
    "empty tensor": (("x", torch.ones(0)), {}, r"Its shape is \(0,\)"),
    "dictionary": (("x", {"a": 1.0}), {}, "`dict` values cannot be logged.*self.log_dict"),
    "nested dictionary": (("x", {"a": {"b": 1.0}}), {}, "`dict` values.*unnested"),
    "string": (("x", "good"), {}, "`str` values.*self.logger.experiment.add_text"),
    "None": (("x", None), {}, r"`self.log\(x, None\)` was called, but `NoneType` values"),
    "list": (("x", [1.0]), {}, "`list` values"),
    "complex number": (("x", 1j), {}, "`complex` values"),
    "neither": (("x", 1.0), {"on_step": False, "on_epoch": False}, "is not useful"),
    "reduction": (("x", 1.0), {"reduce_fx": "median"}, "reduce_fx={min,max,mean,sum}.* not 'median'"),
    "index in the name": (("x/dataloader_idx_0", 1.0), {}, "`self.log` with the key `x/dataloader_idx_0`"),
    "removed argument": (("x", 1.0), {"sync_dist_op": "sum"}, "removed the argument sync_dist_op; pass reduce_fx"),
    "unknown argument": (("x", 1.0), {"in_epoch": True}, "Lightning has no argument in_epoch"),
    "no value": (("x",), {}, r"self.log\('x'\) needs a name and a value"),
    "argument given twice": (("x", 1.0, True), {"prog_bar": True}, "3 arguments without a name, and prog_bar by name"),
    "too many arguments": (("x", *range(20)), {}, "21 arguments without a name, and none by name"),
    "name": ((3, 1.0), {}, "the name must be a string, not int"),
    "loose torchmetrics object": (("x", MeanMetric()), {}, "attribute for the metric.*__init__.*MeanMetric"),
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
        assert message.startswith(f"{place('log')}: ")
        assert f"self.log({args[0]}" in message.replace("'", "")
        assert re.search(expected, message)
        assert checkpoints() == []
        module.is_wrong = False
        trains(module)

    @pytest.mark.parametrize(
        ("dictionary", "expected"),
        [
            ({"x": {"y": 1.0}}, r"`self.log\(x, {'y': 1.0}\)` was called, but `dict` values"),
            ({"x": torch.ones(2)}, "the tensor must have a single element"),
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
        assert message.startswith(f"{place('name twice')}: You called `self.log(x, ...)` twice in `training_step`")
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

        message = refuse_log(type("Module", (tiny(pl),), {hook: log})())
        assert message.startswith(
            f"{place('no step')}: self.log('x'): You can't `self.log(on_step=True)` inside `{hook}`"
        )

    @pytest.mark.parametrize(
        "hook",
        ["configure_optimizers", "on_fit_start", "setup", "configure_model", "on_validation_end", "on_train_end"],
    )
    def test_hook_that_allows_no_logging(self, lightning: ModuleType, hook: str) -> None:
        def log(self: Any, *args: Any, **kwargs: Any) -> None:
            self.log("x", 1.0)  # here: no logging

        methods = {hook: log, "validation_step": lambda self, batch, batch_idx: None}
        message = refuse_log(type("Module", (tiny(lightning),), methods)(), val_dataloaders=loader())
        assert message.startswith(f"{place('no logging')}: self.log('x'): You can't `self.log()` inside `{hook}`;")
        assert "self.logger.experiment" in message

    def test_while_the_loader_is_made(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def train_dataloader(self) -> Any:
                self.log("x", 1.0)  # here: log in train_dataloader
                return loader()

        with pytest.raises(MetricError) as caught:
            train(Module())
        assert str(caught.value).startswith(
            f"{place('log in train_dataloader')}: self.log('x'): You can't `self.log()` inside `train_dataloader`;"
        )

    def test_after_training(self, lightning: ModuleType) -> None:
        module = tiny(lightning)()
        trains(module)
        with pytest.raises(MetricError) as caught:
            module.log("x", 1.0)  # here: log after training
        assert str(caught.value).startswith(f"{place('log after training')}: You are trying to `self.log('x'")

    def test_in_a_helper_leads_to_the_helper(self, pl: ModuleType) -> None:
        def helper(module: Any) -> None:
            module.log("x", "text")  # here: log in a helper

        class Module(tiny(pl)):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                helper(self)

        assert refuse_log(Module()).startswith(place("log in a helper"))
