"""The YAML file says what it is given, to each reader of YAML, and is what a master accepts."""

from __future__ import annotations

import io
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from lightning_shim.cli.experiment import Experiment, Length
from lightning_shim.cli.search_space import search_space
from lightning_shim.cli.searcher_metric import SearcherMetric, smaller_is_better
from lightning_shim.user_code.training_script import Parameter
from tests.configurations.validation import problems

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"])) | st.sampled_from(
    ["on", "No", "1e3", "null", "~", "0o7", "1:30", "2024-01-01", "- a", "a: b", "a # b", "", " "]
)
SCALARS = TEXTS | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES.filter(lambda n: n != "type"), inner, max_size=3),
)


def experiment(values: dict[str, Any], *, is_search: bool = False, metric: str = "val_loss") -> Experiment:
    parameters = [
        Parameter(name, f"model.py:{line}", True, value, "...") for line, (name, value) in enumerate(values.items())
    ]
    length = Length("epochs", 3, "train.py:4")
    searched = SearcherMetric(metric, "model.py:9", True)
    return Experiment("a name", "train.py", "python3 train.py", 1, searched, length, parameters, is_search)


def read(text: str) -> dict[str, Any]:
    configuration: dict[str, Any] = yaml.safe_load(text)
    assert YAML(typ="safe", pure=True).load(io.StringIO(text)) == configuration
    assert problems(configuration) == []
    return configuration


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(NAMES, VALUES, max_size=4), TEXTS)
def test_values_are_read_back(values: dict[str, Any], metric: str) -> None:
    configuration = read(experiment(values, metric=metric).text())
    assert repr(configuration["hyperparameters"]) == repr(values)
    assert configuration["searcher"]["metric"] == metric


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_search_is_valid(values: dict[str, Any]) -> None:
    assert read(experiment(values, is_search=True).text())["hyperparameters"].keys() == values.keys()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["lr", "dropout", "width"]), st.floats(1e-300, 1e300) | st.integers(1, 2**52))
def test_range_is_around_the_value(name: str, value: float) -> None:
    space = search_space(name, value)
    assert space is not None
    low, high = space["minval"], space["maxval"]
    if space["type"] == "log":
        low, high = 10.0**low, 10.0**high if high < 300 else float("inf")
    assert low < high
    assert low <= value <= high
    if space["type"] == "double" and value < 1:
        # A probability stays one.
        assert high < 1


@pytest.mark.parametrize(
    ("name", "value", "space"),
    [
        ("learning_rate", 3e-4, {"type": "log", "base": 10, "minval": -5, "maxval": -3}),
        ("ema_decay", 0.999, {"type": "double", "minval": 0.4995, "maxval": 0.9995}),
        ("dropout", 0.2, {"type": "double", "minval": 0.1, "maxval": 0.4}),
        ("temperature", 2.0, {"type": "double", "minval": 1.0, "maxval": 4.0}),
        ("layers", 1, {"type": "int", "minval": 1, "maxval": 2}),
        ("nesterov", False, {"type": "categorical", "vals": [False, True]}),
        *((name, 10, None) for name in ("num_classes", "seed", "in_features", "n_labels", "batch_size", "vocab_size")),
        ("weight_decay", 0.0, None),
        ("patience", -1, None),
    ],
)
def test_ranges(name: str, value: Any, space: dict[str, Any] | None) -> None:
    assert search_space(name, value) == space


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value"),
        ((1, 2), "YAML has no tuple"),
        ([{1}], "YAML has no set"),
        (b"a", "YAML has no bytes"),
        (float("inf"), "no number of JSON's"),
        (2**53 + 1, "too large a number"),
        ({1: 2}, "keys that are not text"),
        ({"a": {"type": "b"}}, "Determined takes a dictionary with a type for a range"),
    ],
    ids=repr,
)
def test_value_that_does_not_arrive(value: Any, reason: str) -> None:
    text = experiment({"name": value, "other": 1}).text()
    assert read(text)["hyperparameters"] == {"other": 1}
    assert f"#   name: model.py:0: ... ({reason})\n" in text


@pytest.mark.parametrize(
    ("name", "is_smaller"),
    [
        ("val_loss", True),
        ("valid/RMSE", True),
        ("val_error_recall", False),
        ("Accuracy@1", False),
        ("val.top5", False),
        ("mAP", False),
        ("placebo", None),
        ("", None),
    ],
)
def test_direction(name: str, is_smaller: bool | None) -> None:
    assert smaller_is_better(name) is is_smaller
