"""Builds modules and data modules from a trial's hyperparameters, which are matched by parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError, HyperparameterWarning
from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES, definition_location
from lightning_shim.diagnostics.warn import warn_at_caller

GLOBAL_BATCH_SIZE: Final = "global_batch_size"
"""Determined's name for the number of samples in the batches of all slots together."""

DETERMINED_HYPERPARAMETERS: Final = frozenset({GLOBAL_BATCH_SIZE})
"""Hyperparameters that Determined reads itself, so that no constructor needs to take them."""


class HyperparameterBuilder:
    """Calls classes and functions with the hyperparameters that they have parameters for.

    Args:
        hparams: The hyperparameters by name.
    """

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        self._hparams: Final = dict(hparams)
        self._taken: set[str] = set(DETERMINED_HYPERPARAMETERS)
        self._asked: list[str] = []

    def build(self, target: Callable[..., Any]) -> Any:
        """Calls a class or function.

        Args:
            target: The class or function. If it takes ``**kwargs``, it gets all hyperparameters.

        Returns:
            Its object or return value.

        Raises:
            ConfigurationError: If there is no hyperparameter for a parameter without a default.
        """
        signature = _signature(target)
        arguments: dict[str, Any] = {}
        missing = []
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments[name] = {key: value for key, value in self._hparams.items() if key not in arguments}
                self._taken |= self._hparams.keys()
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                if name in self._hparams:
                    arguments[name] = self._hparams[name]
                    self._taken.add(name)
                elif parameter.default is inspect.Parameter.empty:
                    missing.append(name)
        name = getattr(target, "__qualname__", repr(target))
        if missing:
            raise ConfigurationError(
                f"{definition_location(target)}: {name} needs {', '.join(missing)}, but there is no such "
                f"hyperparameter. There are: {', '.join(sorted(self._hparams)) or 'none'}. Add it to `hyperparameters` "
                "of the experiment (off-cluster: fit(hparams=...)), or give the parameter a default."
            )
        self._asked.append(name)
        # Unlike target(**arguments), this also passes parameters that are positional only.
        bound = inspect.BoundArguments(signature, arguments)
        return target(*bound.args, **bound.kwargs)

    def warn_about_unused(self) -> None:
        """Warns about hyperparameters that nothing was called with."""
        unused = sorted(self._hparams.keys() - self._taken)
        if unused:
            reason = (
                f"no parameter of {' or '.join(self._asked)} has that name"
                if self._asked
                else "module and data module were passed as objects; pass classes, to have them built"
            )
            warn_at_caller(f"The hyperparameters {', '.join(unused)} have no effect: {reason}.", HyperparameterWarning)


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """Returns the parameters that the user has defined; none for a class without a constructor of its own."""
    # LightningModule.__init__ takes *args and **kwargs, which would take every hyperparameter and then drop it.
    constructor = getattr(target, "__init__", None) if isinstance(target, type) else None
    if constructor is not None and constructor.__module__.partition(".")[0] in FRAMEWORK_PACKAGES:
        return inspect.Signature()
    return inspect.signature(target)
