"""DeviceStatsMonitor: Lightning's names and values reach Determined's metrics and TensorBoard."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_mock import MockerFixture
from pytorch_lightning.accelerators import CPUAccelerator, cpu
from pytorch_lightning.callbacks import DeviceStatsMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, run_determined, run_lightning
from tests.parity.oracle import assert_equal as assert_all_equal
from tests.support.recording import Recording

Scalars = dict[str, list[tuple[int, float]]]


class LooksAtAccelerator(Regression):
    def on_fit_start(self) -> None:
        assert type(self.trainer.accelerator) is CPUAccelerator


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has the processor's load count how often it is asked for."""

    def numbers() -> None:
        counts = itertools.count()
        monkeypatch.setattr(cpu, "get_cpu_stats", lambda: {"cpu_percent": float(next(counts))})

    return numbers


def scalars(recording: Recording) -> Scalars:
    """Takes the processor's load out of a recording."""
    found: Scalars = defaultdict(list)
    for step, values in sorted(recording.logged.items()):
        for name, value in values:
            if "DeviceStatsMonitor" in name:
                found[name].append((step, value))
        recording.logged[step] = [entry for entry in values if "DeviceStatsMonitor" not in entry[0]]
    return dict(found)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}])
@pytest.mark.parametrize("period", [1, 3])
def test_values(mocker: MockerFixture, numbered: Callable[[], None], period: int, options: dict[str, int]) -> None:
    case = Case(
        LooksAtAccelerator,
        loaders,
        callbacks=lambda: [DeviceStatsMonitor()],
        log_every_n_steps=period,
        options=options,
    )
    numbered()
    lightning = run_lightning(case)
    numbered()
    determined = run_determined(case, mocker)
    theirs, ours = scalars(lightning), scalars(determined)
    assert len(theirs) == 4
    (folder,) = Path("lightning_logs").iterdir()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    assert {name: [(event.step, event.value) for event in events.Scalars(name)] for name in theirs} == theirs
    # Determined's master takes a name once for a step.
    assert ours == {name: list(dict(reversed(values)).items())[::-1] for name, values in theirs.items()}
    if not options:
        assert_all_equal(lightning, determined)


def test_switched_off(mocker: MockerFixture) -> None:
    case = Case(Regression, loaders, callbacks=lambda: [DeviceStatsMonitor(cpu_stats=False)])
    assert_all_equal(run_lightning(case), run_determined(case, mocker))
