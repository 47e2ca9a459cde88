"""The cluster of these tests, which run one after another: DET_MASTER says where its master is.

With ``--e2e-stand-in`` it is the master of ``tests/cluster``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.real_cluster import RealCluster, log_in, wheel
from tests.e2e.stand_in import StandIn
from tests.e2e.submission import Cluster


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    has_cluster = "DET_MASTER" in os.environ or config.getoption("e2e_stand_in")
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)):
            item.add_marker(pytest.mark.xdist_group("e2e"))
            item.add_marker(pytest.mark.skipif(not has_cluster, reason="needs a cluster: DET_MASTER"))


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The real cluster, of which what was submitted is deleted at the end; or the one that is made up."""
    slots, time_limit = pytestconfig.getoption("e2e_slots"), pytestconfig.getoption("e2e_time_limit")
    if agents := pytestconfig.getoption("e2e_stand_in"):
        yield StandIn(tmp_path_factory.mktemp("stand-in"), slots, agents, time_limit)
        return
    real = RealCluster(
        master=log_in(),
        wheel=wheel(tmp_path_factory.mktemp("wheel")),
        folder=tmp_path_factory.mktemp("contexts"),
        image=pytestconfig.getoption("e2e_image"),
        slots=slots,
        time_limit=time_limit,
    )
    yield real
    real.clean_up()
