"""A real cluster: experiments are submitted to a master by Determined's SDK."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from determined.common.api import bindings, errors

from tests.e2e.submission import Submission, TrialResult
from tests.support.repository import REPOSITORY

with warnings.catch_warnings():
    # Determined's client warns of its own classes when it is imported.
    warnings.simplefilter("ignore", FutureWarning)
    from determined.common.experimental.checkpoint import CheckpointSortBy
    from determined.experimental import client

GROUPS = ("training", "validation", "validate", "test")
ENDED = {client.ExperimentState.COMPLETED, client.ExperimentState.CANCELED, client.ExperimentState.ERROR}
# How often the master is asked, in seconds.
INTERVAL = 0.5


def log_in() -> client.Determined:
    """Returns Determined's client for the master of DET_MASTER, and the user that the command ``det`` knows."""
    return client.Determined()


@dataclass
class RealCluster:
    """Submits experiments, waits for them, and deletes them.

    Attributes:
        master: Determined's client.
        wheel: A wheel of this package.
        folder: Where contexts are put together.
        image: The image of the containers; the cluster's own by default.
        slots: The slots of a distributed trial.
        time_limit: How long a trial may take, in seconds; an experiment with several has so much for each.
    """

    master: Any
    wheel: Path
    folder: Path
    image: str | None
    slots: int
    time_limit: float
    _experiments: list[Any] = field(default_factory=list, init=False)

    def run(self, submission: Submission, pauses: tuple[int, ...] = (), *, restarts: int = 0) -> list[TrialResult]:
        """Runs an experiment; see ``Cluster.run``. Its logs are printed, which pytest shows if the test fails."""
        configuration = {**submission.configuration, "max_restarts": restarts}
        if self.image is not None:
            configuration["environment"] = {**configuration.get("environment", {}), "image": self.image}
        trials = configuration["searcher"].get("max_trials", 1)
        with self._submitted(configuration, self._context(submission.folder)) as experiment:
            deadline = time.monotonic() + self.time_limit * trials
            for batch in pauses:
                self._pause(experiment, batch, deadline)
            _wait(experiment, deadline, lambda: experiment.state in ENDED)
            return [self._result(trial) for trial in _trials(experiment)]

    def _context(self, folder: Path) -> Path:
        context = self.folder / f"context-{time.time_ns()}"
        shutil.copytree(folder, context, ignore=shutil.ignore_patterns("*.whl", "__pycache__", "checkpoints", "runs"))
        shutil.copy(self.wheel, context)
        shutil.copy(REPOSITORY / "examples/mnist/startup-hook.sh", context)
        return context

    @contextlib.contextmanager
    def _submitted(self, configuration: dict[str, Any], context: Path) -> Iterator[Any]:
        experiment = self.master.create_experiment(configuration, context)
        self._experiments.append(experiment)
        print(f"experiment {experiment.id}: {configuration['name']}")
        try:
            yield experiment
        finally:
            experiment.reload()
            if experiment.state not in ENDED:
                experiment.kill()
                _wait(experiment, time.monotonic() + self.time_limit, lambda: experiment.state in ENDED)
            for trial in _trials(experiment):
                print(f"---- the log of trial {trial.id}, {trial.state}")
                print("".join(trial.iter_logs()))

    def clean_up(self) -> None:
        """Deletes all experiments. They are kept until then, since a test may look at their files."""
        for experiment in self._experiments:
            experiment.delete()

    def _pause(self, experiment: Any, batch: int, deadline: float) -> None:
        """Pauses an experiment of one trial when it has trained a batch, and lets it go on when it has ended."""
        trial = experiment.await_first_trial()
        _wait(experiment, deadline, lambda: _newest_report(trial) >= batch)
        experiment.pause()
        # The experiment is paused at once, and its trial when it has written a checkpoint.
        _wait(experiment, deadline, lambda: _newest_checkpoint(trial) >= batch)
        experiment.activate()

    def _result(self, trial: Any) -> TrialResult:
        metrics: dict[str, dict[int, dict[str, float]]] = {}
        for group in GROUPS:
            for report in trial.iter_metrics(group):
                metrics.setdefault(group, {}).setdefault(report.steps_completed, {}).update(report.metrics)
        checkpoints = {each.metadata["steps_completed"]: each.uuid for each in _checkpoints(trial)}
        return TrialResult(
            trial_id=trial.id,
            state=trial.state.name,
            log="".join(trial.iter_logs()),
            metrics=metrics,
            checkpoints=checkpoints,
            download=lambda uuid, folder: Path(self.master.get_checkpoint(uuid).download(str(folder))),
            tensorboard_tags=lambda: self._tensorboard_tags(trial),
        )

    def _tensorboard_tags(self, trial: Any) -> set[str]:
        """Starts Determined's TensorBoard for a trial, which reads the files in the storage, and asks it."""
        session = trial._session
        body = bindings.v1LaunchTensorboardRequest(trialIds=[trial.id])
        tensorboard = bindings.post_LaunchTensorboard(session, body=body).tensorboard.id
        try:
            for _ in range(int(self.time_limit / INTERVAL)):
                time.sleep(INTERVAL)
                # Until it is there, the proxy answers with an error.
                with contextlib.suppress(errors.APIException, OSError, ValueError):
                    answer = session.with_retry(0).get(f"/proxy/{tensorboard}/data/plugin/scalars/tags").json()
                    if any(answer.values()):
                        return {tag for of_run in answer.values() for tag in of_run}
            raise AssertionError(f"TensorBoard {tensorboard} shows nothing of trial {trial.id}")
        finally:
            bindings.post_KillTensorboard(session, tensorboardId=tensorboard)


def _trials(experiment: Any) -> list[Any]:
    return sorted(experiment.iter_trials(), key=lambda trial: trial.id)


def _checkpoints(trial: Any) -> list[Any]:
    """Returns those that Determined's policy has left."""
    listed = trial.list_checkpoints(sort_by=CheckpointSortBy.BATCH_NUMBER, order_by=client.OrderBy.ASC)
    return [each for each in listed if each.state == client.CheckpointState.COMPLETED]


def _newest_checkpoint(trial: Any) -> int:
    return max((each.metadata["steps_completed"] for each in _checkpoints(trial)), default=0)


def _newest_report(trial: Any) -> int:
    return max((report.steps_completed for report in trial.iter_metrics("training")), default=0)


def _wait(experiment: Any, deadline: float, condition: Callable[[], bool]) -> None:
    """Waits for something that an experiment does before it ends."""
    while not condition():
        experiment.reload()
        if experiment.state in ENDED and not condition():
            raise AssertionError(f"experiment {experiment.id} is {experiment.state.name} before it should be")
        if time.monotonic() > deadline:
            raise AssertionError(f"experiment {experiment.id} has taken too long, and is {experiment.state.name}")
        time.sleep(INTERVAL)


def wheel(folder: Path) -> Path:
    """Makes a wheel of this package."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(REPOSITORY),
    ]
    subprocess.run(command, check=True)
    [file] = folder.glob("lightning_shim-*.whl")
    return file
