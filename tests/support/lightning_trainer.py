"""Lightning's own Trainer, which the shim is compared with."""

from __future__ import annotations

from types import ModuleType
from typing import Any

NO_SANITY_CHECK: dict[str, Any] = {"num_sanity_val_steps": 0}
"""An option of a Trainer, and of fit, without which the validation is tried before training."""

QUIET: dict[str, Any] = {
    **NO_SANITY_CHECK,
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Options of a Trainer that does nothing beside training on one process and validating."""


def fit_by_lightning(
    lightning: ModuleType,
    module: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    *,
    ckpt_path: Any = None,
    **options: Any,
) -> Any:
    """Trains a module as ``lightning_shim.fit`` does, but under Lightning's own Trainer.

    Args:
        lightning: The namespace that the module's classes come from.
        module: As in ``Trainer.fit``.
        train_dataloaders: As in ``Trainer.fit``.
        val_dataloaders: As in ``Trainer.fit``.
        datamodule: As in ``Trainer.fit``.
        ckpt_path: As in ``Trainer.fit``.
        **options: Options of the Trainer, beside the quiet ones or in their place.

    Returns:
        The Trainer.
    """
    trainer = lightning.Trainer(**{**QUIET, **options})
    trainer.fit(module, train_dataloaders, val_dataloaders, datamodule, ckpt_path)
    return trainer
