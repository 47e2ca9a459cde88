"""The state of a data module at one moment, which its hooks may change."""

from __future__ import annotations

import pickle
from typing import Any


def captured_state(datamodule: Any) -> bytes:
    """Returns a data module's ``state_dict`` in a form that does not change with it; empty if there is none."""
    state = None if datamodule is None else datamodule.state_dict()
    return pickle.dumps(state) if state else b""


def restore_state(datamodule: Any, state: bytes) -> None:
    """Gives a data module what :func:`captured_state` returned, unless that is empty."""
    if state:
        datamodule.load_state_dict(pickle.loads(state))
