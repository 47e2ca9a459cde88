"""Builds modules and data modules from a trial's hyperparameters, matched by parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from lightning_shim._warnings import (
    ConfigurationError,
    HyperparameterWarning,
    definition_location,
    warn_at_caller,
)

DETERMINED_HYPERPARAMETERS: Final = frozenset({"global_batch_size"})
"""Names that Determined reads itself, so that they need not be anybody's parameter."""


class HyperparameterBuilder:
    """Calls classes and functions with those hyperparameters that they have parameters for.

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
            target: Its parameters are filled by name; one that takes ``**kwargs`` gets all hyperparameters.

        Returns:
            What it returned.

        Raises:
            ConfigurationError: If a parameter without a default has no hyperparameter.
        """
        parameters = inspect.signature(target).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        arguments = {
            name: value
            for name, value in self._hparams.items()
            if inspect.Parameter.VAR_KEYWORD in kinds
            or (name in parameters and parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL)
        }
        missing = [
            name
            for name, parameter in parameters.items()
            if parameter.default is inspect.Parameter.empty
            and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            and name not in arguments
        ]
        name = getattr(target, "__qualname__", repr(target))
        if missing:
            raise ConfigurationError(
                f"{definition_location(target)}: {name} needs {', '.join(missing)}, but there is no such "
                f"hyperparameter. There are: {', '.join(sorted(self._hparams)) or 'none'}. Add it to `hyperparameters` "
                "of the experiment (off-cluster: fit(hparams=...)), or give the parameter a default."
            )
        self._taken |= arguments.keys()
        self._asked.append(name)
        return target(**arguments)

    def warn_about_unused(self) -> None:
        """Warns about hyperparameters that reached nobody; says nothing if nothing was built from them."""
        unused = sorted(self._hparams.keys() - self._taken)
        if unused and self._asked:
            warn_at_caller(
                f"The hyperparameters {', '.join(unused)} have no effect: no parameter of {' or '.join(self._asked)} "
                "has that name.",
                HyperparameterWarning,
            )
