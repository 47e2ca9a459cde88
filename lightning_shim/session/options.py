"""The options that a trial shares with Lightning's Trainer: one row each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.upstream.lightning import Lightning
from lightning_shim.upstream.lightning_strategy import problem_of_strategy


def _option(default: Any, is_valid: Callable[[Any], bool], meaning: str) -> Any:
    """A row: the default, the test of a value, and the description of valid values for the error message."""
    return field(default=default, metadata={"is_valid": is_valid, "meaning": meaning})


# isinstance(True, int) is true, but True is no number of batches.
def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_part(value: Any) -> bool:
    return (isinstance(value, int) and value >= 0) or (isinstance(value, float) and 0 <= value <= 1)


# The type matters, as in Lightning: 1 is one batch, and 1.0 is all of them.
def _limit(default: float, may_be_none: bool = True) -> Any:
    return _option(
        default,
        lambda value: (value is None and may_be_none) or _is_part(value),
        "a number of batches, or a fraction of them as a float up to 1.0",
    )


def _minimum(unit: str) -> Any:
    return _option(None, lambda value: value is None or _is_count(value), f"a number of {unit}")


def _switch(default: bool) -> Any:
    return _option(default, lambda value: isinstance(value, bool), "True or False")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerOptions:
    """Options of a trial that have the names and meanings of Lightning's Trainer.

    Attributes:
        precision: One of Lightning's names, such as ``"32-true"`` or ``"bf16-mixed"``.
        accumulate_grad_batches: The number of batches whose gradients are accumulated before a step.
        gradient_clip_val: The largest norm, or value, of the gradients.
        gradient_clip_algorithm: ``"norm"``, also if it is None, or ``"value"``.
        limit_train_batches: The batches of a training epoch, as a number or a fraction.
        limit_val_batches: The batches of each validation loader, as a number or a fraction.
        overfit_batches: The batches to train and validate on, as a number or a fraction, the same ones in each epoch;
            the loaders' own samplers are replaced. With 0 the limits apply instead.
        reload_dataloaders_every_n_epochs: The number of epochs after which loaders are requested again; 0 for never.
            Determined's epochs stay as long as the first one, so a later one may have fewer batches, but not more.
        use_distributed_sampler: Whether the samples of each map-style loader are sharded over several processes, unless
            it has a DistributedSampler already.
        sync_batchnorm: Whether batch normalization takes mean and variance over the batches of all processes.
        strategy: ``"auto"``, ``"ddp"`` and its variants, or a ``DDPStrategy`` with arguments of DistributedDataParallel
            and of the process group. The processes are the same with each of them; with DDP a single one has a process
            group and a DistributedSampler too, as in Lightning.
        find_unused_parameters: Whether DistributedDataParallel looks for parameters that have no part in a loss, as
            Lightning's ``strategy="ddp_find_unused_parameters_true"``. Toggled optimizers need it.
        cut_to_shortest_rank: Whether an epoch ends on all processes when the first one has no more batches; otherwise
            different numbers of batches are an error. Processes whose loaders have no length agree before each batch.
        num_sanity_val_steps: The number of batches of each validation loader that are tried before the first batch of
            training, so that a bug in ``validation_step`` shows at once; -1 for all. Nothing is kept of them, and there
            are none after a pause.
        min_epochs: The epochs before which the training cannot stop early.
        min_steps: The optimizer steps before which the training cannot stop early.
        default_root_dir: The folder that callbacks write to by default; None for the working directory.
    """

    # Every value passes here; loop/precision checks the name.
    precision: str | int = _option("32-true", lambda value: True, "one of Lightning's names")
    accumulate_grad_batches: int = _option(
        1, lambda value: _is_count(value, least=1), "a number of batches, at least 1"
    )
    gradient_clip_val: float | None = _option(
        None, lambda value: value is None or isinstance(value, (int, float)), "a number"
    )
    # A name when it is passed; `checked` turns it into a member of Lightning's enumeration.
    gradient_clip_algorithm: Any = _option(
        None, lambda value: value is None or isinstance(value, str), "'norm' or 'value'"
    )
    limit_train_batches: int | float = _limit(1.0)
    limit_val_batches: int | float = _limit(1.0)
    overfit_batches: int | float = _limit(0.0, may_be_none=False)
    reload_dataloaders_every_n_epochs: int = _option(0, _is_count, "a number of epochs, or 0 for never")
    use_distributed_sampler: bool = _switch(True)
    sync_batchnorm: bool = _switch(False)
    strategy: Any = _option(
        "auto",
        lambda value: problem_of_strategy(value) is None,
        "'auto', 'ddp' or one of its variants, or a DDPStrategy",
    )
    find_unused_parameters: bool = _switch(False)
    cut_to_shortest_rank: bool = _switch(False)
    num_sanity_val_steps: int | float = _option(
        2,
        lambda value: value == float("inf") or _is_count(value, least=-1),
        "a number of batches, or -1 for all of them",
    )
    min_epochs: int | None = _minimum("epochs")
    min_steps: int | None = _minimum("optimizer steps")
    default_root_dir: str | os.PathLike[str] | None = _option(
        None, lambda value: value is None or isinstance(value, (str, os.PathLike)), "a folder"
    )

    @classmethod
    def checked(cls, lightning: Lightning, **options: Any) -> TrainerOptions:
        """Checks options and fills in the defaults."""
        for name, value in options.items():
            verify_option(name, value)
        overfit_batches = options.get("overfit_batches")
        for name in ("limit_train_batches", "limit_val_batches"):
            # As in Lightning, overfit_batches sets both limits, and a limit of None is the default.
            if overfit_batches:
                options[name] = overfit_batches
            elif options.get(name) is None:
                options.pop(name, None)
        algorithm = options.get("gradient_clip_algorithm")
        if algorithm is not None:
            algorithms = lightning.GradClipAlgorithmType
            # A script's Trainer has a member of the enumeration already, which is a string as well.
            if not algorithms.supported_type(algorithm.lower()):
                raise _error("gradient_clip_algorithm", algorithm)
            options["gradient_clip_algorithm"] = algorithms(algorithm.lower())
        return cls(**options)


# All that the package knows of an option is read from its row, so a new option is one field above.
_ROWS: Final = {row.name: row for row in fields(TrainerOptions)}

OPTION_NAMES: Final = tuple(_ROWS)
"""The names of the options."""

DEFAULTS: Final = {name: row.default for name, row in _ROWS.items()}
"""The options' defaults by name."""


def root_dir_of(given: str | os.PathLike[str] | None) -> str:
    """Returns the folder for files: the one given, that of Lightning's environment variable, or the current one."""
    given = given or os.environ.get("PL_TRAINER_DEFAULT_ROOT_DIR")
    if given is None or "://" in os.fspath(given):
        return os.getcwd() if given is None else os.fspath(given)
    return os.path.normpath(os.path.expanduser(given))


def verify_option(name: str, value: Any) -> None:
    """Refuses an option that is not there, or a value that makes no sense."""
    if name not in _ROWS:
        raise ConfigurationError(
            f"{caller_location()}: a LightningTrial has no option {name!r}. The options are {', '.join(OPTION_NAMES)}."
        )
    if not _ROWS[name].metadata["is_valid"](value):
        raise _error(name, value)


def _error(name: str, value: Any) -> ConfigurationError:
    meaning = _ROWS[name].metadata["meaning"]
    return ConfigurationError(f"{caller_location()}: {name}={value!r} makes no sense; it is {meaning}.")
