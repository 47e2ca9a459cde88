"""What is paid once, or not for each step: importing, patching, resuming; and whether a step's cost grows."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from benchmarks.contestants import Task, TimedBatches, run_lightning_trial
from benchmarks.models import SUBJECTS

_IMPORT: Final = """
import sys, time
start = time.perf_counter()
import lightning_shim
print(time.perf_counter() - start)
assert not {"torch", "pytorch_lightning", "lightning", "determined"} & sys.modules.keys()
"""


def _fresh_import() -> float:
    """Imports the package in a process of its own, and returns the seconds it took."""
    return float(subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True).stdout)


def _patch() -> float:
    """Patches Lightning, which is imported already, and returns the seconds it took."""
    start = time.perf_counter()
    lightning_shim.patch()
    duration = time.perf_counter() - start
    lightning_shim.unpatch()
    return duration


def _median(measure: Callable[[], float], repetitions: int) -> float:
    return statistics.median(measure() for _ in range(repetitions))


def _skipped_samples_per_second(batches: int, batch_size: int) -> float:
    """Returns how many samples of a shuffled map-style loader are passed over in a second when a trial is resumed."""
    from lightning_shim.random_state import RandomState
    from lightning_shim.resuming import TrackedLoader

    dataset = TensorDataset(torch.arange(batches * batch_size))
    paused, resumed = (TrackedLoader(DataLoader(dataset, batch_size=batch_size, shuffle=True)) for _ in range(2))
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
        "import lightning_shim, ms": 1000 * _median(_fresh_import, repetitions),
        "patch() with Lightning imported, ms": 1000 * _median(_patch, repetitions),
        "samples skipped a second when resuming": _skipped_samples_per_second(50 if smoke else 100_000, 32),
        f"a step with five logs, at {steps // 10} of {steps}, us": first,
        f"a step with five logs, at {steps} of {steps}, us": last,
    }
