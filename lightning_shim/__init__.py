"""Trains unchanged PyTorch Lightning modules on Determined AI.

Importing it imports neither PyTorch, nor Lightning, nor Determined: what needs them is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_shim._warnings import (
    CheckpointError,
    ConfigurationError,
    DifferenceWarning,
    HyperparameterWarning,
    IgnoredMemberWarning,
    LightningShimError,
    LightningShimWarning,
    MetricError,
    PatchError,
    PatchWarning,
    RefusedMemberError,
    RefusedMemberWarning,
    StrictModeError,
)
from lightning_shim.patches import is_patched, patch, patched, unpatch

if TYPE_CHECKING:
    from lightning_shim.compatibility import check
    from lightning_shim.findings import CompatibilityReport
    from lightning_shim.launch import fit
    from lightning_shim.trial import LightningTrial

__all__ = [
    "CheckpointError",
    "CompatibilityReport",
    "ConfigurationError",
    "DifferenceWarning",
    "HyperparameterWarning",
    "IgnoredMemberWarning",
    "LightningShimError",
    "LightningShimWarning",
    "LightningTrial",
    "MetricError",
    "PatchError",
    "PatchWarning",
    "RefusedMemberError",
    "RefusedMemberWarning",
    "StrictModeError",
    "check",
    "fit",
    "is_patched",
    "patch",
    "patched",
    "unpatch",
]

_IMPORTED_WHEN_USED = {
    "CompatibilityReport": "lightning_shim.findings",
    "LightningTrial": "lightning_shim.trial",
    "check": "lightning_shim.compatibility",
    "fit": "lightning_shim.launch",
}


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_WHEN_USED:
        return getattr(importlib.import_module(_IMPORTED_WHEN_USED[name]), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("lightning_shim")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_IMPORTED_WHEN_USED, "__version__"]
