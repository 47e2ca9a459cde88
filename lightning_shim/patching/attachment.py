"""How a patched method knows that its module is attached to a trial. Standard library only.

Two private names of LightningModule are relied on: ``_trainer``, where the setter of ``trainer`` stores it (its getter
raises where there is none), and ``_current_fx_name``, the hook that is running.
"""

from __future__ import annotations

from typing import Any, Final

from lightning_shim.members.member import Support
from lightning_shim.members.query import members

CURRENT_FX_ATTRIBUTE: Final = "_current_fx_name"

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
"""What a trial's trainer answers and nobody can set."""

FIXED_SENTENCE: Final = "it cannot be set, since a trial is set up when it is built."


class Attached:
    """Base of what an attached module has as its trainer; only the trial's facade derives from it.

    Attributes:
        collector: Keeps what the module logs in the present stage.
    """

    collector: Any

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints on rank 0."""
        raise NotImplementedError


def attached_trainer(module: Any) -> Any | None:
    """Returns the trial's facade if the module is attached to a trial.

    Args:
        module: A LightningModule.

    Returns:
        The facade, or None if there is no module, or it has no trainer or another one.
    """
    # An unbound call may have no module.
    trainer = None if module is None else module.__dict__.get("_trainer")
    return trainer if isinstance(trainer, Attached) else None
