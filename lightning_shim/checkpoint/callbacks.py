"""The callbacks whose attributes are kept: the user's own, and those of Lightning's that come back without a state."""

from __future__ import annotations

from typing import Any, Final

from lightning_shim.checkpoint.attribute_pickle import NEVER_KEPT
from lightning_shim.upstream.lightning import is_overridden, lightning_of
from lightning_shim.upstream.namespaces import lightnings_class

_LEFT_OUT: Final = {
    # Its state lacks the running mean, and Lightning cannot load it.
    "SpikeDetection": frozenset[str](),
    # It has no state. Its times are of a clock that starts anew with the machine, and its rates are made of them.
    "ThroughputMonitor": frozenset({"_t0s", "_throughputs"}),
}
"""The attributes of each that are not kept."""


def attributes_left_out(callback: Any) -> frozenset[str] | None:
    """Returns the names of the attributes that are not kept; None if its ``state_dict`` decides what is kept."""
    base = next((found for name in _LEFT_OUT if (found := lightnings_class(callback, name))), None)
    if base is None:
        is_users = type(callback).__module__.partition(".")[0] not in NEVER_KEPT
        has_state = is_overridden("state_dict", callback, lightning_of(callback).Callback)
        return frozenset() if is_users and not has_state else None
    # A user may have mended the state in a class of their own.
    has_own_state = is_overridden("load_state_dict", callback, base)
    return None if has_own_state else _LEFT_OUT[base.__name__]
