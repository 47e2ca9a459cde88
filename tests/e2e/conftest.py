"""The cluster of these tests, which run one after another: DET_MASTER says where its master is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.real_cluster import RealCluster, log_in, wheel
from tests.e2e.submission import Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)):
            item.add_marker(pytest.mark.xdist_group("e2e"))
            item.add_marker(pytest.mark.skipif("DET_MASTER" not in os.environ, reason="needs a cluster: DET_MASTER"))


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The real cluster; what was submitted is deleted at the end."""
    real = RealCluster(
        master=log_in(),
        wheel=wheel(tmp_path_factory.mktemp("wheel")),
        folder=tmp_path_factory.mktemp("contexts"),
        image=pytestconfig.getoption("e2e_image"),
        slots=pytestconfig.getoption("e2e_slots"),
        time_limit=pytestconfig.getoption("e2e_time_limit"),
    )
    yield real
    real.clean_up()
