"""Pauses and deaths of processes: the trial ends with the weights and metrics of one that ran through."""

from __future__ import annotations

import random

import pytest

from tests.e2e.submission import EPOCH_LENGTH, FIT, LENGTH, SCRIPT, Cluster, TrialResult, experiment

# Slow enough for the pause to come before the end; a batch that was drawn is where the master is asked to pause.
SECONDS = 0.5


def of_one(trials: list[TrialResult]) -> TrialResult:
    [trial] = trials
    assert trial.state == "COMPLETED"
    return trial


def assert_same(interrupted: TrialResult, undisturbed: TrialResult) -> None:
    assert interrupted.said("weights at the end")[-1] == undisturbed.said("weights at the end")[-1]
    assert undisturbed.metrics["training"].keys() == set(range(1, LENGTH + 1))
    assert interrupted.metrics == undisturbed.metrics


@pytest.mark.parametrize("entrypoint", [SCRIPT, FIT], ids=["script", "fit"])
def test_pauses_at_random(cluster: Cluster, entrypoint: str) -> None:
    pauses = tuple(sorted(random.SystemRandom().sample(range(2, LENGTH - 6), 2)))
    print(f"pauses: {pauses}")
    undisturbed = of_one(cluster.run(experiment(entrypoint)))
    paused = of_one(cluster.run(experiment(entrypoint, hyperparameters={"seconds": SECONDS}), pauses))
    assert paused.log.count("lightning_shim: paused, after") >= 1
    assert_same(paused, undisturbed)


def test_pause_of_several_slots(cluster: Cluster) -> None:
    """Two agents may be exchanged."""
    batch = random.SystemRandom().randrange(2, LENGTH - 6)
    print(f"pause: {batch}")
    undisturbed = of_one(cluster.run(experiment(SCRIPT, slots=cluster.slots)))
    submission = experiment(SCRIPT, slots=cluster.slots, hyperparameters={"seconds": SECONDS})
    paused = of_one(cluster.run(submission, (batch,)))
    assert_same(paused, undisturbed)


@pytest.mark.parametrize("several", [False, True], ids=["one slot", "several slots"])
def test_process_that_kills_itself(cluster: Cluster, several: bool) -> None:
    """In the second epoch of its first run; of several the last one, which may be on another agent."""
    slots = cluster.slots if several else 1
    undisturbed = of_one(cluster.run(experiment(SCRIPT, slots=slots)))
    submission = experiment(SCRIPT, slots=slots, hyperparameters={"killed_rank": slots - 1})
    restarted = of_one(cluster.run(submission, restarts=1))
    assert len(restarted.said("weights at the start")) == 2
    assert f"going on after batch {EPOCH_LENGTH}" in restarted.log
    assert_same(restarted, undisturbed)
