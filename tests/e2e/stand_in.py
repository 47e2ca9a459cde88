"""The cluster that ``tests/cluster`` makes up: one trial, whose processes are all on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cluster.master import CLUSTER_ID, EXPERIMENT_ID, TRIAL_ID
from tests.cluster.trial import Trial, run_trial
from tests.e2e.submission import LENGTH, Submission, TrialResult


@dataclass
class StandIn:
    """Runs an experiment of one trial, for tests that are written for a real cluster.

    Attributes:
        folder: Where all is written.
        slots: The slots of a distributed trial.
    """

    folder: Path
    slots: int = 2
    _runs: int = 0

    def run(self, submission: Submission, pauses: tuple[int, ...] = (), *, restarts: int = 0) -> list[TrialResult]:
        """Runs an experiment; see ``Cluster.run``."""
        self._runs += 1
        folder = self.folder / str(self._runs)
        folder.mkdir()
        context = {file.name: file.read_text() for file in submission.folder.glob("*.py")}
        # A run that fails is followed by another one, as after a pause that it does not reach.
        after = (*pauses, *(LENGTH + 1 for _ in range(restarts)))
        trial = run_trial(folder, submission.configuration, context, pauses=after)
        print(trial.log)
        return [self._result(trial)]

    def _result(self, trial: Trial) -> TrialResult:
        groups = {group for run in trial.master.runs for group in run.metrics}
        return TrialResult(
            trial_id=TRIAL_ID,
            state="ERROR" if trial.outcomes[-1].exit_code else "COMPLETED",
            log=trial.log,
            metrics={group: trial.master.metrics(group) for group in groups},
            checkpoints=trial.master.checkpoints,
            download=lambda uuid, folder: Path(shutil.copytree(trial.storage / uuid, folder, dirs_exist_ok=True)),
            tensorboard_tags=lambda: _tags(trial.storage),
        )


def _tags(storage: Path) -> set[str]:
    folder = storage / CLUSTER_ID / f"tensorboard/experiment/{EXPERIMENT_ID}/trial/{TRIAL_ID}"
    return set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])
