"""The test by which a patched method recognizes a module that is attached to a trial. Standard library only."""

from __future__ import annotations

from typing import Any, Final

from lightning_shim.members.member import Support
from lightning_shim.members.query import members

CURRENT_FX_ATTRIBUTE: Final = "_current_fx_name"

# The names taken out can be assigned, by user code (should_stop, accumulate_grad_batches) or by the facade itself.
FIXED: Final = frozenset(row.name for row in members("Trainer", Support.BACKED)) - {
    "_data_connector",
    "accumulate_grad_batches",
    "callbacks",
    "datamodule",
    "logger",
    "profiler",
    "should_stop",
    "state",
    "strategy",
}
"""The attributes of a trial's trainer that can be read but not set."""

FIXED_SENTENCE: Final = "it cannot be set, since a trial is set up when it is built."


FACADE: Final = "_lightning_shim_facade"
"""The attribute of the trainer of an attached module with the trial's facade."""


class Attached:
    """Base class of the trainer of an attached module: the trial's facade, or a script's own Trainer that shows it.

    The patches know this class instead of the facade, which imports PyTorch and Determined.

    Attributes:
        barebones: Whether nothing is logged.
    """

    _lightning_shim_facade: Any
    barebones: bool = False


def attached_trainer(module: Any) -> Any | None:
    """Returns the trainer of a module that is attached to a trial, or None if there is none, or no trial uses it."""
    # wrapt gives no instance for a call through the class, such as LightningModule.log(...).
    # The dictionary is asked because nn.Module.__getattr__ would search parameters and submodules on each call.
    trainer = None if module is None else module.__dict__.get("_trainer")
    return trainer if isinstance(trainer, Attached) else None
