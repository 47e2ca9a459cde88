"""The options of a trial that Lightning's Trainer has as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_shim._lightning import Lightning
from lightning_shim._warnings import ConfigurationError


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """Options whose names and defaults are Lightning's.

    Attributes:
        accumulate_grad_batches: Batches whose gradients are added up before a step.
        gradient_clip_val: The largest norm, or value, of the gradients.
        gradient_clip_algorithm: ``"norm"`` or ``"value"``.
        limit_train_batches: Batches of a training epoch, or the fraction of them.
        limit_val_batches: Batches of each validation loader, or the fraction of them.
        log_every_n_steps: Batches between two reports of step values; None for Determined's reporting period.
    """

    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Any = None
    limit_train_batches: int | float = 1.0
    limit_val_batches: int | float = 1.0
    log_every_n_steps: int | None = None

    @classmethod
    def checked(cls, lightning: Lightning, **options: Any) -> TrainerOptions:
        """Makes options after checking them.

        Args:
            lightning: The module's Lightning.
            **options: The options by name.

        Returns:
            The options, ``gradient_clip_algorithm`` as Lightning's enumeration.

        Raises:
            ConfigurationError: If one of them makes no sense.
        """
        for name in ("accumulate_grad_batches", "log_every_n_steps"):
            value = options[name]
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"{name}={value!r} is no positive number of batches.")
        for name in ("limit_train_batches", "limit_val_batches"):
            value = options[name]
            if value < 0 or (isinstance(value, float) and value > 1):
                raise ConfigurationError(f"{name}={value!r} is neither a number of batches nor a fraction up to 1.0.")
        algorithm = options["gradient_clip_algorithm"]
        if algorithm is not None:
            if not lightning.GradClipAlgorithmType.supported_type(str(algorithm).lower()):
                raise ConfigurationError(f"gradient_clip_algorithm={algorithm!r} is neither 'norm' nor 'value'.")
            options["gradient_clip_algorithm"] = lightning.GradClipAlgorithmType(str(algorithm).lower())
        return cls(**options)
