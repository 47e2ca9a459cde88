"""Tests of tests/e2e on the master of this folder, so that they are not first tried on a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import test_interruptions, test_trials
from tests.e2e.stand_in import StandIn

pytestmark = pytest.mark.xdist_group("e2e parts")


@pytest.fixture
def cluster(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


test_fit = test_trials.test_fit


@pytest.mark.parametrize("several", [False])
def test_process_that_kills_itself(cluster: StandIn, several: bool) -> None:
    test_interruptions.test_process_that_kills_itself(cluster, several)
