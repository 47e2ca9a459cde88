"""Submits the scripts of this folder as trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.cluster import trial as trials
from tests.cluster.trial import Trial
from tests.script.execution import RUN, execute

SCRIPTS = Path(__file__).parent / "scripts"
CONTEXT = {file.name: file.read_text() for file in SCRIPTS.glob("*.py")}
EPOCH_LENGTH = 6


def submit(
    folder: Path, entrypoint: str, *, slots: int = 1, trial: dict[str, Any] | None = None, **config: Any
) -> Trial:
    """Runs a trial.

    Args:
        folder: An empty folder.
        entrypoint: The experiment's entrypoint.
        slots: The slots of the trial.
        trial: Further arguments of ``trial.run_trial``.
        **config: Further entries of the configuration.
    """
    configuration = {
        "name": "a trial",
        "entrypoint": entrypoint,
        "hyperparameters": {},
        "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
        "resources": {"slots_per_trial": slots},
        **config,
    }
    return trials.run_trial(folder, configuration, CONTEXT, **(trial or {}))


def script(**arguments: Any) -> str:
    """Returns the entrypoint for ``train.py`` with arguments for its Trainer."""
    return f"python3 {' '.join(RUN)} train.py '{json.dumps(arguments)}'"


def by_lightning(folder: Path, **arguments: Any) -> dict[str, Any]:
    """Returns what ``train.py`` saves if plain Python runs it."""
    execute(folder, str(SCRIPTS / "train.py"), json.dumps({"logger": False, **arguments}))
    results: dict[str, Any] = torch.load(folder / "results-0.pt", weights_only=False)
    return results
