"""Runs a trial to its end, and through its pauses."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.cluster import agent
from tests.cluster.master import Master
from tests.configurations.validation import problems

# What the master adds to a configuration; Determined's older entry point reads it.
DEFAULTS: dict[str, Any] = {
    "checkpoint_policy": "best",
    "min_checkpoint_period": {"batches": 0},
    "min_validation_period": {"batches": 0},
    "optimizations": {
        "aggregation_frequency": 1,
        "average_aggregated_gradients": True,
        "gradient_compression": False,
    },
    "perform_initial_validation": False,
    "profiling": {"enabled": False},
    "resources": {"slots_per_trial": 1},
    "records_per_epoch": 0,
    "scheduling_unit": 100,
}


@dataclass
class Trial:
    """A trial, with the master that it has talked to.

    Attributes:
        master: The master.
        storage: The checkpoint storage.
        outcomes: How each of its runs has ended.
    """

    master: Master
    storage: Path
    outcomes: list[agent.Outcome] = field(default_factory=list)

    @property
    def log(self) -> str:
        return "\n".join(outcome.log for outcome in self.outcomes)

    def results(self, rank: int = 0) -> dict[str, Any]:
        """Returns what the script has saved when its last run ended."""
        results: dict[str, Any] = torch.load(self.outcomes[-1].folder / f"results-{rank}.pt", weights_only=False)
        return results

    def checkpoint(self, steps: int) -> dict[str, Any]:
        file = self.storage / self.master.checkpoints[steps] / "state_dict.pth"
        checkpoint: dict[str, Any] = torch.load(file, weights_only=False)
        return checkpoint


def run_trial(
    folder: Path,
    configuration: dict[str, Any],
    context: dict[str, str],
    *,
    seed: int = 3,
    pauses: tuple[int, ...] = (),
    source: Path | None = None,
    time_limit: float = agent.TIME_LIMIT,
    **master_options: Any,
) -> Trial:
    """Runs a trial.

    Args:
        folder: An empty folder, for all that is written.
        configuration: What the user submits.
        context: The files of the context directory, by name.
        seed: The trial's seed.
        pauses: The batches after which it is paused; after one that it does not reach, it is continued when complete.
        source: Another trial's checkpoint, from which its first run starts.
        time_limit: How long each run may take, in seconds.
        **master_options: What else the master is to do.
    """
    assert problems(configuration) == []
    storage = folder / "storage"
    storage.mkdir()
    if source is not None:
        shutil.copytree(source, storage / source.name)
        master_options["warm_start"] = source.name
    config = {**DEFAULTS, "checkpoint_storage": {"type": "directory", "container_path": str(storage)}, **configuration}
    with Master(config, seed, **master_options) as master:
        trial = Trial(master, storage)
        for pause in (*pauses, None):
            run = master.start_run(pause)
            afterwards = folder / str(run.run_id)
            trial.outcomes.append(agent.run(master, context, folder / "disk", afterwards, time_limit))
    return trial


def assert_ended_well(trial: Trial) -> None:
    """Whatever its master and its log say of errors."""
    assert [outcome.exit_code for outcome in trial.outcomes] == [0] * len(trial.outcomes), trial.log
    assert trial.master.refused == []
    assert "Traceback" not in trial.log
