"""A stand-in for the searcher of Determined's master: ``adaptive_asha`` in its standard mode, by the master's rules.

The master starts several trials at once; here they come one after another.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

Stops = Callable[[Mapping[str, Any]], bool]
"""Is given the metrics of each validation of a trial, and says whether the search stops the trial by it."""

DIVISOR = 4
MAX_RUNGS = 5

_SAMPLES: dict[str, Callable[[random.Random, Mapping[str, Any]], Any]] = {
    "const": lambda chooser, given: given["val"],
    "categorical": lambda chooser, given: chooser.choice(given["vals"]),
    "int": lambda chooser, given: chooser.randint(given["minval"], given["maxval"]),
    "double": lambda chooser, given: chooser.uniform(given["minval"], given["maxval"]),
    "log": lambda chooser, given: given["base"] ** chooser.uniform(given["minval"], given["maxval"]),
}


def sample(hyperparameters: Mapping[str, Any], chooser: random.Random) -> dict[str, Any]:
    """Draws the hyperparameters of a trial.

    Args:
        hyperparameters: What the experiment's configuration has under that name.
        chooser: Draws.
    """
    return {
        name: _SAMPLES[given["type"]](chooser, given) if isinstance(given, dict) else given
        for name, given in hyperparameters.items()
    }


def trials(searcher: Mapping[str, Any]) -> list[Stops]:
    """Returns what stops each trial of a search.

    Args:
        searcher: What the experiment's configuration has under that name.
    """
    max_trials, max_time = searcher["max_trials"], searcher["max_time"]
    rungs = min(MAX_RUNGS, *(int(math.log(limit) / math.log(DIVISOR)) + 1 for limit in (max_time, max_trials)))
    brackets = list(range(rungs, (rungs - 1) // 2, -1))
    weights = [DIVISOR ** (count - 1) / count for count in brackets]
    shares = [max(int(weight / sum(weights) * max_trials), 1) for weight in weights]
    shares[0] += max_trials - sum(shares)
    return [
        stops
        for count, share in zip(brackets, shares, strict=True)
        for stops in _bracket(
            searcher, [max(max_time // DIVISOR ** (count - 1 - rung), 1) for rung in range(count)], share
        )
    ]


def _bracket(searcher: Mapping[str, Any], times: list[int], share: int) -> list[Stops]:
    """Trials that are compared with each other when they come to a rung, of which each has its time."""
    sign = 1 if searcher["smaller_is_better"] else -1
    # Of each rung, the best first.
    values: list[list[float]] = [[] for _ in times]

    def trial() -> Stops:
        rung = 0

        def stops(metrics: Mapping[str, Any]) -> bool:
            nonlocal rung
            while rung < len(times) and metrics[searcher["time_metric"]] >= times[rung]:
                value = sign * metrics[searcher["metric"]]
                place = bisect.bisect_left(values[rung], value)
                values[rung].insert(place, value)
                goes_on = place < max(len(values[rung]) // DIVISOR, 1)
                rung += 1
                if rung == len(times) or not goes_on:
                    return True
            return False

        return stops

    return [trial() for _ in range(share)]
