"""Validates the configuration of an experiment as Determined's master does, by the master's own schemas."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, ValidationError, validators
from referencing import Registry
from referencing.jsonschema import DRAFT7

VERSION = "0.38"
"""Of Determined."""

SCHEMAS = {
    # jsonschema would use a validator of the standard's keywords alone wherever a schema names the standard.
    schema["$id"]: {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    for schema in json.loads(Path(__file__).with_name(f"schemas-{VERSION}.json").read_text())
}
TOP = "http://determined.ai/schemas/expconf/v0/experiment.json"

# What the master puts in before it asks whether a configuration is complete.
ADDED_BY_THE_MASTER = {
    "checkpoint_storage": {"type": "directory", "container_path": "/checkpoints"},
    "reproducibility": {"experiment_seed": 0},
}

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "a<b": operator.lt,
    "a<=b": operator.le,
    "a_is_subdir_of_b": lambda a, b: Path(os.path.normpath(os.path.join(b, a))).is_relative_to(b),
}

Errors = Iterator[ValidationError]


def _union(validator: Any, union: Any, instance: Any, schema: Any) -> Errors:
    """One of the items has to fit. ``unionKey`` says which one was meant, ``const:name=value`` by an entry's value."""
    errors_by_item = [list(validator.descend(instance, item)) for item in union["items"]]
    if not all(errors_by_item):
        return
    for item, errors in zip(union["items"], errors_by_item, strict=True):
        name, _, value = item["unionKey"].removeprefix("const:").partition("=")
        if value and isinstance(instance, Mapping) and instance.get(name) == value:
            yield from errors
            return
    yield ValidationError(union.get("defaultMessage", f"{instance!r} is of none of the known kinds"))


def _checks(validator: Any, checks: Any, instance: Any, schema: Any) -> Errors:
    """The schemas that have to fit, by what is said otherwise."""
    for message, check in checks.items():
        if not validator.evolve(schema=check).is_valid(instance):
            yield ValidationError(message)


def _compare_properties(validator: Any, comparison: Any, instance: Any, schema: Any) -> Errors:
    """How two entries compare."""
    names = comparison["a"], comparison["b"]
    values = [instance.get(name) if isinstance(instance, Mapping) else None for name in names]
    if None not in values and not COMPARISONS[comparison["type"]](*values):
        yield ValidationError(f"{comparison['type']} does not hold for {' and '.join(names)}: {values}")


def _disallow_properties(validator: Any, disallowed: Any, instance: Any, schema: Any) -> Errors:
    """The entries that must not be there, and what is said of them."""
    for name, message in disallowed.items():
        if isinstance(instance, Mapping) and name in instance:
            yield ValidationError(message)


def _eventually(validator: Any, eventual: Any, instance: Any, schema: Any) -> Errors:
    """A schema that has to fit when the configuration is complete."""
    yield from validator.descend(instance, eventual)


def _eventually_required(validator: Any, names: Any, instance: Any, schema: Any) -> Errors:
    """The entries that a complete configuration has."""
    for name in names:
        if isinstance(instance, Mapping) and instance.get(name) is None:
            yield ValidationError(f"{name!r} is a required property")


def _optional_reference(validator: Any, reference: str, instance: Any, schema: Any) -> Errors:
    """A reference to the schema of anything but null."""
    if instance is not None:
        yield from validator.descend(instance, {"$ref": reference})


KEYWORDS = {
    "checks": _checks,
    "compareProperties": _compare_properties,
    "disallowProperties": _disallow_properties,
    "eventually": _eventually,
    "eventuallyRequired": _eventually_required,
    "optionalRef": _optional_reference,
    "union": _union,
}
"""Determined's own."""

_Validator: Any = validators.extend(Draft7Validator, KEYWORDS)
_VALIDATOR = _Validator(
    SCHEMAS[TOP],
    registry=Registry().with_resources((name, DRAFT7.create_resource(schema)) for name, schema in SCHEMAS.items()),
)


def problems(configuration: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with a configuration, and where, as JSON paths.

    Args:
        configuration: What a user submits.
    """
    errors = _VALIDATOR.iter_errors({**ADDED_BY_THE_MASTER, **configuration})
    return [f"{error.json_path}: {error.message}" for error in errors]
