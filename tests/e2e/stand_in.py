"""The cluster that ``tests/cluster`` makes up: one trial at a time, whose containers are all on this machine."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cluster import search
from tests.cluster.master import CLUSTER_ID, EXPERIMENT_ID
from tests.cluster.trial import Trial, run_trial
from tests.e2e.submission import LENGTH, Submission, TrialResult


@dataclass
class StandIn:
    """Runs experiments, for tests that are written for a real cluster.

    Attributes:
        folder: Where all is written.
        slots: The slots of a distributed trial.
        agents: The machines that share the slots of such a trial.
        time_limit: How long a run may take, in seconds.
    """

    folder: Path
    slots: int = 2
    agents: int = 1
    time_limit: float = 120
    _trials: dict[int, Trial] = field(default_factory=dict, init=False)

    def run(self, submission: Submission, pauses: tuple[int, ...] = (), *, restarts: int = 0) -> list[TrialResult]:
        """Runs an experiment; see ``Cluster.run``."""
        searcher = submission.configuration["searcher"]
        if "max_trials" not in searcher:
            return [self._run(submission, pauses, restarts)]
        chooser = random.Random(0)
        results = []
        for stops in search.trials(searcher):
            hyperparameters = search.sample(submission.configuration["hyperparameters"], chooser)
            drawn = Submission({**submission.configuration, "hyperparameters": hyperparameters}, submission.folder)
            results.append(self._run(drawn, pauses, restarts, stops=stops))
        return results

    def _run(self, submission: Submission, pauses: tuple[int, ...], restarts: int, **master: Any) -> TrialResult:
        trial_id = len(self._trials) + 1
        folder = self.folder / str(trial_id)
        folder.mkdir()
        configuration = submission.configuration
        source = self._trials.get(configuration["searcher"].get("source_trial_id"))
        slots = configuration.get("resources", {}).get("slots_per_trial", 1)
        trial = run_trial(
            folder,
            configuration,
            {file.name: file.read_text() for file in submission.folder.glob("*.py")},
            # A run that fails is followed by another one, as after a pause that it does not reach.
            pauses=(*pauses, *(LENGTH + 1 for _ in range(restarts))),
            source=None if source is None else source.storage / list(source.master.checkpoints.values())[-1],
            trial_id=trial_id,
            agents=self.agents if slots == self.slots else 1,
            time_limit=self.time_limit,
            **master,
        )
        print(f"---- the log of trial {trial_id}")
        print(trial.log)
        self._trials[trial_id] = trial
        groups = {group for run in trial.master.runs for group in run.metrics}
        return TrialResult(
            trial_id=trial_id,
            state="ERROR" if trial.outcomes[-1].exit_code else "COMPLETED",
            log=trial.log,
            metrics={group: trial.master.metrics(group) for group in groups},
            checkpoints=trial.master.checkpoints,
            download=lambda uuid, folder: Path(shutil.copytree(trial.storage / uuid, folder, dirs_exist_ok=True)),
            tensorboard_tags=lambda: _tags(trial.storage, trial_id),
        )


def _tags(storage: Path, trial_id: int) -> set[str]:
    folder = storage / CLUSTER_ID / f"tensorboard/experiment/{EXPERIMENT_ID}/trial/{trial_id}"
    return set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])
