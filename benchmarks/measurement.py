"""Interleaved and repeated measurements, and what is made of them."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from benchmarks.contestants import CONTESTANTS, Task, TimedBatches
from benchmarks.models import Subject

WARM_UP: Final = 50
"""Steps of each run that are not timed, at most as many as are timed."""

BATCHES: Final = 16
"""Different batches, given in turn."""


@dataclass(frozen=True)
class Setting:
    """What all contestants do in the same round."""

    subject: Subject
    logs: int
    validates: bool


@dataclass(frozen=True)
class Result:
    """What a contestant's steps cost.

    Attributes:
        subject: The model's name.
        stage: ``"training"`` or ``"validation"``.
        logs: Values that are logged in a step.
        contestant: Who.
        rounds: Microseconds of each round's median step.
        mean_rounds: Microseconds of each round's mean step, reports included.
    """

    subject: str
    stage: str
    logs: int
    contestant: str
    rounds: tuple[float, ...]
    mean_rounds: tuple[float, ...]

    @property
    def microseconds(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    def ratio_to(self, other: Result, with_reports: bool = False) -> float:
        """Compares with another contestant of the same setting, round by round, since neighbours come and go.

        Args:
            other: The other one's result.
            with_reports: Whether to compare a round's mean steps, which share in the cost of its reports.

        Returns:
            The median over the rounds of how many times as long a step takes.
        """
        pairs = (self.mean_rounds, other.mean_rounds) if with_reports else (self.rounds, other.rounds)
        return statistics.median(own / others for own, others in zip(*pairs, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as plain values."""
        return {**asdict(self), "microseconds": self.microseconds}


def measure(setting: Setting, rounds: int, steps: int, contestants: Sequence[str] = tuple(CONTESTANTS)) -> list[Result]:
    """Has all contestants run in turn, several times; the one that begins is another one each time.

    Args:
        setting: What they do.
        rounds: How often.
        steps: Steps that are timed in each run.
        contestants: Who takes part.

    Returns:
        A result for each contestant.
    """
    batches = [setting.subject.batch() for _ in range(BATCHES)]
    medians: dict[str, list[float]] = {name: [] for name in contestants}
    means: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(rounds):
        shift = index % len(contestants)
        for name in (*contestants[shift:], *contestants[:shift]):
            durations = _durations(CONTESTANTS[name], setting, batches, steps)
            medians[name].append(statistics.median(durations))
            means[name].append(statistics.fmean(durations))
    return [
        Result(
            setting.subject.name,
            "validation" if setting.validates else "training",
            setting.logs,
            name,
            tuple(medians[name]),
            tuple(means[name]),
        )
        for name in contestants
    ]


def _durations(run: Callable[[Task], None], setting: Setting, batches: Any, steps: int) -> list[float]:
    torch.manual_seed(0)
    warm_up = min(WARM_UP, steps)
    timed = TimedBatches(batches, warm_up + steps + 1)
    gc.collect()
    run(Task(setting.subject, setting.logs, timed, setting.validates))
    return [(later - earlier) / 1000 for earlier, later in itertools.pairwise(timed.times[warm_up:])]
