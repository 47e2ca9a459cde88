"""What is paid once, or not for each step: importing, patching, resuming; and whether a step's cost grows."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contestants import Task, TimedBatches, run_lightning_trial
from benchmarks.models import SUBJECTS

_IMPORT: Final = """
import sys, time
start = time.perf_counter()
import lightning_shim
print(time.perf_counter() - start)
assert not {"torch", "pytorch_lightning", "lightning", "determined"} & sys.modules.keys()
"""

_PATCH: Final = """
import sys, time
import lightning_shim, pytorch_lightning
assert "wrapt" not in sys.modules
start = time.perf_counter()
import wrapt
imported = time.perf_counter()
lightning_shim.patch()
print(time.perf_counter() - (start if "wrapt" in sys.argv else imported))
"""


def _milliseconds(program: str, repetitions: int, *arguments: str) -> float:
    """Runs a program in processes of their own, and returns the median of the seconds that they print, in ms."""
    command = [sys.executable, "-c", program, *arguments]
    runs = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(repetitions))
    return 1000 * statistics.median(float(run.stdout) for run in runs)


class _NoAttributes:
    """Keeps no attributes of parts of loaders: there are none of a user's classes."""

    packages: frozenset[str] = frozenset()

    def add_loaders(self, stage: str, loaders: Sequence[Any]) -> None:
        """Does nothing."""

    def capture(self, loader: Any) -> None:
        """Returns nothing."""

    def restore_captured(self, captured: Any) -> None:
        """Does nothing."""


def _skipped_samples_per_second(batches: int, batch_size: int) -> float:
    """Returns how many samples of a shuffled map-style loader are passed over in a second when a trial is resumed."""
    from lightning_shim.data.tracked_loader import TrackedLoader
    from lightning_shim.session.random_state import RandomState

    dataset = TensorDataset(torch.arange(batches * batch_size))
    loaders = (DataLoader(dataset, batch_size=batch_size, shuffle=True) for _ in range(2))
    paused, resumed = (TrackedLoader(loader, _NoAttributes()) for loader in loaders)
    next(iter(paused))
    position = {**paused.state_dict(), "taken": batches - 1}
    start = time.perf_counter()
    resumed.resume(position, epoch=0, now=RandomState.capture(), continues=True)
    return (batches - 1) * batch_size / (time.perf_counter() - start)


def _step_costs(steps: int, logs: int) -> tuple[float, float]:
    """Returns the microseconds of a step at the beginning of a training, and at its end."""
    subject = SUBJECTS[0]
    timed = TimedBatches([subject.batch() for _ in range(16)], steps)
    run_lightning_trial(Task(subject, logs, timed, validates=False))
    durations = [(later - earlier) / 1000 for earlier, later in itertools.pairwise(timed.times)]
    window = max(steps // 10, 1)
    return statistics.median(durations[window : 2 * window]), statistics.median(durations[-window:])


def measure_costs(smoke: bool) -> dict[str, float]:
    """Measures everything in this module.

    Args:
        smoke: Whether to make do with a number that means nothing.

    Returns:
        Numbers by what they are.
    """
    repetitions, steps = (1, 50) if smoke else (11, 20_000)
    first, last = _step_costs(steps, logs=5)
    return {
        "import lightning_shim, ms": _milliseconds(_IMPORT, repetitions),
        "patch() with Lightning imported, ms": _milliseconds(_PATCH, repetitions, "wrapt"),
        "the same with wrapt imported as well, ms": _milliseconds(_PATCH, repetitions),
        "samples skipped a second when resuming": _skipped_samples_per_second(50 if smoke else 100_000, 32),
        f"a step with five logs, at {steps // 10} of {steps}, us": first,
        f"a step with five logs, at {steps} of {steps}, us": last,
    }
