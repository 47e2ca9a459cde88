"""What is wrong with a configuration is found; ``tests/examples`` reads those of the examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.configurations.validation import KEYWORDS, SCHEMAS, VERSION, problems

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
SHOWN = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)

SEARCH = """
name: a search
entrypoint: python3 model_def.py
hyperparameters:
  width: {type: int, minval: 8, maxval: 32}
  learning_rate: {type: log, base: 10, minval: -4, maxval: -1}
  optimizer: {beta: 0.9, momentum: {type: categorical, vals: [0.0, 0.9]}}
resources: {slots_per_trial: 2}
searcher: {name: adaptive_asha, metric: val_loss, max_trials: 4, time_metric: epochs, max_time: 5}
"""


def test_valid() -> None:
    assert problems(yaml.safe_load(SEARCH)) == []


def test_page_shows_experiments() -> None:
    assert len(SHOWN) == 4


@pytest.mark.parametrize("shown", SHOWN)
def test_page_shows_valid_ones(shown: str) -> None:
    assert problems(yaml.safe_load(shown)) == []


@pytest.mark.parametrize(
    ("valid", "broken", "problem"),
    [
        ("entrypoint:", "entry_point:", r"\$: .*'entry_point' was unexpected"),
        ("searcher:", "description:", r"\$: 'searcher' is a required property"),
        ("slots_per_trial: 2", "slots_per_trial: two", r"\$\.resources\.slots_per_trial: 'two' is not of type"),
        ("adaptive_asha", "adaptive_ash", r"\$\.searcher: is not an object where object\[\"name\"\] is one of"),
        ("time_metric: epochs", "smallest: 1", r"\$\.searcher: .*'smallest' was unexpected"),
        ("max_trials: 4", "max_trials: 0", r"\$\.searcher\.max_trials: 0 is less than the minimum of 1"),
        ("max_trials: 4, ", "", r"\$\.searcher: 'max_trials' is a required property"),
        ("metric: val_loss, ", "", r"\$\.searcher: 'metric' is a required property"),
        ("minval: 8", "minval: 64", r"\$\.hyperparameters\.width: a<b does not hold for minval and maxval: \[64, 32\]"),
        ("base: 10, ", "", r"\$\.hyperparameters\.learning_rate: 'base' is a required property"),
        ("type: categorical", "type: category", r"\$\.hyperparameters\.optimizer: "),
        (
            "resources:",
            "environment: {pod_spec: {name: mine}}\nresources:",
            r"\$\.environment\.pod_spec: pod Name is not a configurable option",
        ),
    ],
)
def test_broken(valid: str, broken: str, problem: str) -> None:
    assert SEARCH.count(valid) == 1
    found = problems(yaml.safe_load(SEARCH.replace(valid, broken)))
    assert any(re.match(problem, each) for each in found), found


def test_schemas_are_those_of_the_installed_determined() -> None:
    assert version("determined").startswith(f"{VERSION}.")


def test_every_keyword_of_the_schemas_is_known() -> None:
    """JSON Schema lets a validator ignore a keyword that it does not know."""
    annotations = {"$comment", "$id", "$schema", "default", "title", "unionKey", "then"}
    of_properties = {"properties", "checks"}

    def keywords(schema: Any) -> Iterator[str]:
        if isinstance(schema, list):
            for each in schema:
                yield from keywords(each)
        elif isinstance(schema, dict):
            for keyword, value in schema.items():
                yield keyword
                if keyword in of_properties:
                    yield from keywords(list(value.values()))
                elif keyword == "union":
                    yield from keywords(value["items"])
                elif keyword not in {"default", "disallowProperties", "compareProperties", "const", "enum"}:
                    yield from keywords(value)

    used = set(keywords(list(SCHEMAS.values())))
    assert used - annotations == used & {*Draft7Validator.VALIDATORS, *KEYWORDS}
