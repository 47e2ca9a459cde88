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


class Attached:
    """Base class of the trainer of an attached module.

    Only the facade derives from it. The patches know this class instead of the facade, which imports PyTorch and
    Determined.

    Attributes:
        metrics: What the module logs; its ``collector`` is that of the current stage.
        barebones: Whether nothing is logged.
    """

    metrics: Any
    barebones: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Returns the trainer itself, for a copy of a callback that has it as an attribute: a trial is there once."""
        return self


def attached_trainer(module: Any) -> Any | None:
    """Returns the trial's facade that a module is attached to, or None for no trainer or one of Lightning's."""
    # wrapt gives no instance for a call through the class, such as LightningModule.log(...).
    # The dictionary is asked because nn.Module.__getattr__ would search parameters and submodules on each call.
    trainer = None if module is None else module.__dict__.get("_trainer")
    return trainer if isinstance(trainer, Attached) else None
