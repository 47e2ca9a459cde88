"""Metrics of a script's ``validate`` and ``test`` after ``fit``, recorded by Determined with the trial."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lightning_shim.checkpoint.machines import share
from lightning_shim.diagnostics.warn import is_rank_zero
from lightning_shim.upstream.determined.context import is_on_cluster, report_after_training

_recorded: Final[dict[str, set[str]]] = {}
"""The names of the recorded metrics by group."""

_batches_trained: int | None = None


def remember_training(batches_trained: int) -> None:
    """Starts to record evaluations, as results of a training that has ended.

    Evaluations before ``fit`` are not recorded, since a trial that continues after a pause repeats them.
    """
    global _batches_trained
    _batches_trained = batches_trained


def share_checkpoint(trainer: Any, ckpt_path: Any) -> None:
    """Has a checkpoint that only rank 0's machine has on every machine, if all processes evaluate.

    Before ``fit`` nothing connects them. The names "best" and "last" stand for files that all machines have since.
    """
    if ckpt_path is not None and trainer.strategy.world_size > 1:
        share([ckpt_path], replaces=False)


def record_evaluation(verb: str, results: Sequence[Mapping[str, float]]) -> None:
    """Records the metrics of ``validate`` or ``test``, by loader, with the trial on a cluster.

    The verb is the group of the metrics. The master takes one value of a name for a batch and group, so a second
    evaluation with the same names, such as of another checkpoint, goes to a numbered group: ``test``, ``test_2``.
    """
    if _batches_trained is None or not (is_on_cluster() and is_rank_zero()):
        return
    metrics = {name: value for of_loader in results for name, value in of_loader.items()}
    if not metrics:
        return
    groups = itertools.chain([verb], (f"{verb}_{number}" for number in itertools.count(2)))
    group = next(group for group in groups if not _recorded.get(group, set()) & metrics.keys())
    report_after_training(group, metrics, _batches_trained)
    _recorded.setdefault(group, set()).update(metrics)
