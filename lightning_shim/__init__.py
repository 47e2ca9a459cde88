"""Trains unchanged PyTorch Lightning modules on Determined AI.

``__all__`` is the public interface, together with ``import monkey_patch`` and ``python -m lightning_shim``. Every
module below this one is private and may change without notice.

Importing this package imports neither PyTorch, nor Lightning, nor Determined.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_shim.diagnostics.errors import (
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
from lightning_shim.patching.lightning_module import is_patched, patch, patched, unpatch

if TYPE_CHECKING:
    from lightning_shim.compatibility.inspection import check
    from lightning_shim.compatibility.report import CompatibilityReport
    from lightning_shim.trial.fit import fit
    from lightning_shim.trial.trial import LightningTrial

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

# These need PyTorch, Lightning or Determined, which take seconds to import. A script that only patches, and a command
# line that only prints its help, must not wait for them.
_IMPORTED_WHEN_USED = {
    "CompatibilityReport": "lightning_shim.compatibility.report",
    "LightningTrial": "lightning_shim.trial.trial",
    "check": "lightning_shim.compatibility.inspection",
    "fit": "lightning_shim.trial.fit",
}


def __getattr__(name: str) -> Any:
    if name in _IMPORTED_WHEN_USED:
        return getattr(importlib.import_module(_IMPORTED_WHEN_USED[name]), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("lightning_shim")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_IMPORTED_WHEN_USED, "__version__"]
