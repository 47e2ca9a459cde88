"""The options of a trial that Lightning's Trainer has as well."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.upstream.lightning import Lightning


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """Options whose names are Lightning's.

    Attributes:
        accumulate_grad_batches: Batches whose gradients are added up before a step.
        gradient_clip_val: The largest norm, or value, of the gradients.
        gradient_clip_algorithm: ``"norm"`` or ``"value"``.
        limit_train_batches: Batches of a training epoch, or the fraction of them.
        limit_val_batches: Batches of each validation loader, or the fraction of them.
        overfit_batches: Batches, or the fraction of them, that stand for both limits, always the same; 0 for all.
        reload_dataloaders_every_n_epochs: Epochs after which the loaders are asked for anew; 0 for never.
        use_distributed_sampler: Whether several processes share out the samples of each loader.
        sync_batchnorm: Whether several processes normalise batches together.
        find_unused_parameters: Whether several processes expect parameters that have no part in a loss.
        num_sanity_val_steps: Batches of each validation loader that are tried before training.
        min_epochs: Epochs before which nobody stops the training early.
        min_steps: Optimizer steps before which nobody stops the training early.
        default_root_dir: Where callbacks write files by default; None for the working directory.
    """

    accumulate_grad_batches: int
    gradient_clip_val: float | None
    gradient_clip_algorithm: Any
    limit_train_batches: int | float
    limit_val_batches: int | float
    overfit_batches: int | float
    reload_dataloaders_every_n_epochs: int
    use_distributed_sampler: bool
    sync_batchnorm: bool
    find_unused_parameters: bool
    num_sanity_val_steps: int | float
    min_epochs: int | None
    min_steps: int | None
    default_root_dir: str | os.PathLike[str] | None

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
        algorithms = lightning.GradClipAlgorithmType
        for name in _RULES:
            verify_option(name, options[name])
        for name in ("limit_train_batches", "limit_val_batches"):
            options[name] = options["overfit_batches"] or (1.0 if options[name] is None else options[name])
        algorithm = options["gradient_clip_algorithm"]
        if algorithm is not None:
            # It may be a member of the enumeration already, which is a string as well.
            name = algorithm.lower() if isinstance(algorithm, str) else ""
            if not algorithms.supported_type(name):
                raise _error("gradient_clip_algorithm", algorithm, "'norm' or 'value'")
            options["gradient_clip_algorithm"] = algorithms(name)
        return cls(**options)


def verify_option(name: str, value: Any) -> None:
    """Refuses a value that makes no sense.

    Args:
        name: The option's name.
        value: What it is to be.

    Raises:
        ConfigurationError: If it makes no sense.
    """
    is_valid, meaning = _RULES[name]
    if not is_valid(value):
        raise _error(name, value, meaning)


def _error(name: str, value: Any, meaning: str) -> ConfigurationError:
    return ConfigurationError(f"{caller_location()}: {name}={value!r} makes no sense; it is {meaning}.")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_limit(value: Any) -> bool:
    return value is None or _is_part(value)


def _is_part(value: Any) -> bool:
    return (isinstance(value, int) and value >= 0) or (isinstance(value, float) and 0 <= value <= 1)


def _is_minimum(value: Any) -> bool:
    return value is None or _is_count(value, 0)


_RULES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "accumulate_grad_batches": (lambda value: _is_count(value, 1), "a number of batches, at least 1"),
    "limit_train_batches": (_is_limit, "a number of batches, or a fraction of them as a float up to 1.0"),
    "limit_val_batches": (_is_limit, "a number of batches, or a fraction of them as a float up to 1.0"),
    "overfit_batches": (_is_part, "a number of batches, or a fraction of them as a float up to 1.0"),
    "reload_dataloaders_every_n_epochs": (lambda value: _is_count(value, 0), "a number of epochs, or 0 for never"),
    "num_sanity_val_steps": (
        lambda value: value == float("inf") or _is_count(value, -1),
        "a number of batches, or -1 for all of them",
    ),
    "min_epochs": (_is_minimum, "a number of epochs"),
    "min_steps": (_is_minimum, "a number of optimizer steps"),
    "default_root_dir": (lambda value: value is None or isinstance(value, (str, os.PathLike)), "a folder"),
    "gradient_clip_val": (lambda value: value is None or isinstance(value, (int, float)), "a number"),
    **dict.fromkeys(
        ("use_distributed_sampler", "sync_batchnorm", "find_unused_parameters"),
        (lambda value: isinstance(value, bool), "True or False"),
    ),
}
