"""Experiments that the tests submit, and what has become of their trials."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from tests.support.repository import REPOSITORY

EPOCH_LENGTH = 10
LENGTH = 3 * EPOCH_LENGTH

_EXAMPLES = REPOSITORY / "examples"
_SCRIPTS = Path(__file__).parent / "scripts"

SCRIPT = "python3 -m lightning_shim run train.py"
FIT = "python3 -m lightning_shim run model_def.py"


@dataclass(frozen=True)
class Submission:
    """An experiment.

    Attributes:
        configuration: What the YAML file says.
        folder: The folder that is submitted with it, to which the cluster adds the package and a startup hook.
    """

    configuration: dict[str, Any]
    folder: Path


@dataclass
class TrialResult:
    """A trial that has ended.

    Attributes:
        trial_id: Its number.
        state: Its state, as in ``COMPLETED``.
        log: All that its processes have printed.
        metrics: Values by name, by batches trained, by group.
        checkpoints: UUIDs by batches trained, in the order of these.
        download: Gets a checkpoint's files, by the UUID, into a folder that it returns.
        tensorboard_tags: Asks for the names of the scalars that TensorBoard shows.
    """

    trial_id: int
    state: str
    log: str
    metrics: dict[str, dict[int, dict[str, float]]]
    checkpoints: dict[int, str]
    download: Callable[[str, Path], Path]
    tensorboard_tags: Callable[[], set[str]] = field(repr=False)

    def said(self, what: str) -> list[str]:
        """Returns what the log has after a word and a colon, line by line."""
        return re.findall(rf"{re.escape(what)}:? ([\w.-]+)", self.log)


class Cluster(Protocol):
    """Runs experiments.

    Attributes:
        slots: The slots of a distributed trial.
    """

    slots: int

    def run(self, submission: Submission, pauses: tuple[int, ...] = (), *, restarts: int = 0) -> list[TrialResult]:
        """Runs an experiment to its end.

        Args:
            submission: The experiment.
            pauses: The batches at which it is paused, or soon after; then it goes on.
            restarts: How often a trial fails, and is started again.

        Returns:
            Its trials, in the order of their numbers.
        """


def example(path: str) -> Submission:
    """Returns an example, by the path of its YAML file below ``examples``."""
    file = _EXAMPLES / path
    return Submission(yaml.safe_load(file.read_text()), file.parent)


def experiment(entrypoint: str, *, slots: int = 1, **configuration: Any) -> Submission:
    """Returns an experiment with the scripts of this folder.

    Args:
        entrypoint: Its entrypoint.
        slots: The slots of its trial.
        **configuration: Further entries of its configuration.
    """
    entries = {
        "name": "lightning_shim e2e",
        "entrypoint": entrypoint,
        "hyperparameters": {},
        "max_restarts": 0,
        "reproducibility": {"experiment_seed": 3},
        "resources": {"slots_per_trial": slots},
        "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
        **configuration,
    }
    return Submission(entries, _SCRIPTS)
