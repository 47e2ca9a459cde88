"""What a trial asks a master."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pytest
from determined.common import api

from lightning_shim.upstream.determined.context import MASTER_ERRORS, is_stopped_by_search


def test_silent_master_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        session = api.TaskSession(f"http://127.0.0.1:{server.getsockname()[1]}", "user", "token", cert=None)
        train = SimpleNamespace(_session=session, _trial_id=1)
        began = time.monotonic()
        with pytest.raises(MASTER_ERRORS, match="timed out"):
            is_stopped_by_search(SimpleNamespace(_core=SimpleNamespace(train=train)), 0.5)
        assert time.monotonic() - began < 5


def test_master_that_is_gone_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    train = SimpleNamespace(
        _session=api.TaskSession(f"http://127.0.0.1:{port}", "user", "token", cert=None), _trial_id=1
    )
    began = time.monotonic()
    with pytest.raises(MASTER_ERRORS):
        is_stopped_by_search(SimpleNamespace(_core=SimpleNamespace(train=train)), 0.5)
    assert time.monotonic() - began < 5
