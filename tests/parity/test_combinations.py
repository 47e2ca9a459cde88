"""Everything that the other tests compare one by one, in combination: every pair of values meets in some case.

The cases are a covering array of strength two over ``DIMENSIONS``: each case has one value of every dimension, and for
any two dimensions any two values that may meet do so in at least one case. It is built greedily, in a fixed order: a
case starts with a pair that no case has by now, and takes for each other dimension the value that adds the most new
pairs. What may not meet is data: ``EXCLUDED``.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from determined import pytorch
from pytest_mock import MockerFixture

from tests.parity.combined import BATCHES, DIMENSIONS, EPOCHS, STOPS_AFTER, Combination, data, module_class
from tests.parity.oracle import WAYS_TO_RECORD, Case, assert_equal, run_determined, run_lightning
from tests.support.recording import Recording

pytestmark = [
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:You have overridden `.*` in:UserWarning"),
    pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`:UserWarning"),
    pytest.mark.filterwarnings("ignore:`parameters` is an empty generator, no gradient clipping will occur"),
]

Setting = tuple[str, Any]


class Exclusion(NamedTuple):
    """Two settings that may not meet, and why; what Lightning and this package say if they refuse it."""

    first: Setting
    second: Setting
    reason: str
    theirs: str | None = None
    ours: str | None = None


LIMITS = {"train": 4, "val": 1}
MANUAL = ("optimization", "manual, two optimizers")
EMPTY = "Expected !nested_tensorlist.0..empty.. to be true"

EXCLUDED = [
    Exclusion(
        MANUAL,
        ("accumulate_grad_batches", 3),
        "Manual optimization accumulates by hand.",
        "Automatic gradient accumulation is not supported for manual optimization",
        "Leave accumulate_grad_batches=3 out",
    ),
    *(
        Exclusion(
            MANUAL,
            ("clipping", algorithm),
            "Manual optimization clips by hand.",
            "Automatic gradient clipping is not supported for manual optimization",
            "Leave gradient_clip_val=0.1 out",
        )
        for algorithm in ("norm", "value")
    ),
    *(
        Exclusion(
            ("optimization", name), ("clipping", "value"), "PyTorch clips no empty list of gradients.", EMPTY, EMPTY
        )
        for name in ("None for some batches", "no optimizer")
    ),
    *(
        Exclusion(
            ("ends_early", True),
            ("validation", validation),
            "Determined counts an epoch that ends early to its end, and validates there; Lightning does not.",
        )
        for validation in ("each epoch", "every 4 batches", "two loaders")
    ),
]


def may_meet(first: Setting, second: Setting) -> bool:
    return not any({first, second} == {rule.first, rule.second} for rule in EXCLUDED)


def pairs(combination: Combination) -> Iterator[frozenset[Setting]]:
    return map(frozenset, itertools.combinations(combination.items(), 2))


@functools.cache
def allowed_pairs() -> tuple[frozenset[Setting], ...]:
    settings = [(name, value) for name, values in DIMENSIONS.items() for value in values]
    return tuple(
        frozenset({first, second})
        for first, second in itertools.combinations(settings, 2)
        if first[0] != second[0] and may_meet(first, second)
    )


def covering_array() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    # A dictionary, since a set has no fixed order.
    missing = dict.fromkeys(allowed_pairs())
    while missing:
        case = dict(next(iter(missing)))
        for name, values in DIMENSIONS.items():
            if name not in case:
                possible = [value for value in values if all(may_meet((name, value), other) for other in case.items())]
                case[name] = max(
                    possible,
                    key=lambda value: sum(frozenset({(name, value), other}) in missing for other in case.items()),
                )
        for pair in pairs(case):
            missing.pop(pair, None)
        cases.append({name: case[name] for name in DIMENSIONS})
    return cases


CASES = covering_array()


def test_every_pair_is_covered() -> None:
    covered = {pair for case in CASES for pair in pairs(case)}
    assert covered == set(allowed_pairs())
    settings = {setting for case in CASES for setting in case.items()}
    assert settings == {(name, value) for name, values in DIMENSIONS.items() for value in values}


def case_of(combination: Combination) -> Case:
    options = {"accumulate_grad_batches": combination["accumulate_grad_batches"], "precision": combination["precision"]}
    if combination["clipping"] is not None:
        options.update(gradient_clip_val=0.1, gradient_clip_algorithm=combination["clipping"])
    if combination["limit"] != "none":
        options[f"limit_{combination['limit']}_batches"] = LIMITS[combination["limit"]]
    return Case(
        module_class(combination),
        data(combination),
        max_epochs=EPOCHS,
        options=options,
        validation=4 if combination["validation"] == "every 4 batches" else None,
        namespace=combination["namespace"],
        **WAYS_TO_RECORD[combination["recording"]],
    )


def epoch_length(combination: Combination) -> int:
    """Returns the number of batches that Determined counts in an epoch."""
    if combination["loaders"] == "iterable" and combination["ends_early"]:
        return STOPS_AFTER + 1
    return LIMITS["train"] if combination["limit"] == "train" else BATCHES


def run_both(combination: Combination, mocker: MockerFixture) -> tuple[Recording, Recording]:
    case = case_of(combination)
    if combination["loaders"] != "iterable":
        return run_lightning(case), run_determined(case, mocker)
    # Determined counts no epochs of a loader without a length, and Lightning estimates no steps of it.
    length = epoch_length(combination)
    steps = EPOCHS * math.ceil(length / combination["accumulate_grad_batches"])
    lightning = run_lightning(case, max_steps=steps if combination["optimization"] == "one cycle" else -1)
    return lightning, run_determined(case, mocker, max_length=pytorch.Batch(EPOCHS * length))


def logged_by_steps(determined: Recording, combination: Combination) -> dict[int, list[tuple[str, float]]]:
    """Renumbers what Determined has by batches as Lightning has it: by steps, and only batches that stepped."""
    length = epoch_length(combination)
    trained = STOPS_AFTER if combination["ends_early"] else length
    accumulate = combination["accumulate_grad_batches"]
    steps = [
        batch
        for batch in range(EPOCHS * length)
        if batch % length < trained and ((batch % length + 1) % accumulate == 0 or batch % length + 1 == length)
    ]
    logged: dict[int, list[tuple[str, float]]] = {}
    for batch, values in determined.logged.items():
        # The end of an epoch that ended early is under the batches that were left out.
        step = bisect.bisect_left(steps, batch) if batch % length < trained else bisect.bisect_right(steps, batch) - 1
        logged.setdefault(step, []).extend(
            (name, value) for name, value in values if batch in steps or not name.endswith("_step")
        )
    return {step: values for step, values in logged.items() if values}


def in_words(combination: Combination) -> str:
    settings = ((name if value else f"not {name}", value) for name, value in combination.items())
    return ", ".join(words if isinstance(value, bool) else str(value) for words, value in settings)


@pytest.mark.versions
@pytest.mark.parametrize("combination", CASES, ids=in_words)
def test_combination(mocker: MockerFixture, combination: Combination) -> None:
    lightning, determined = run_both(combination, mocker)
    determined.logged = logged_by_steps(determined, combination)
    assert_equal(lightning, determined)


@pytest.mark.parametrize("rule", [rule for rule in EXCLUDED if rule.theirs], ids=lambda rule: rule.reason)
def test_refused_by_both(mocker: MockerFixture, rule: Exclusion) -> None:
    combination = {**{name: values[0] for name, values in DIMENSIONS.items()}, **dict([rule.first, rule.second])}
    case = case_of(combination)
    with pytest.raises(Exception, match=rule.theirs):
        run_lightning(case)
    with pytest.raises(Exception, match=rule.ours):
        run_determined(case, mocker)
