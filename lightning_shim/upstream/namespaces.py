"""The two namespaces of Lightning, ``pytorch_lightning`` and ``lightning.pytorch``, and their modules."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location

NAMESPACES: Final = ("pytorch_lightning", "lightning.pytorch")
"""Both may be installed, with separate classes. The second comes with the package ``lightning``."""

DEMONSTRATIONS: Final = tuple(f"{namespace}.demos." for namespace in NAMESPACES)
"""Examples that Lightning ships, which count as the user's code."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """One of the namespaces."""

    name: str  # its importable name, one of `NAMESPACES`

    def module(self, path: str) -> ModuleType:
        """Imports a module of the namespace, such as ``"core.module"``; the empty path is the namespace itself."""
        return importlib.import_module(f"{self.name}.{path}" if path else self.name)

    @property
    def version(self) -> str:
        """The installed version, such as ``"2.6.6"``."""
        return str(self.module("").__version__)

    def imported(self, path: str) -> ModuleType | None:
        """Returns a module of the namespace if it has been imported already, otherwise None."""
        return sys.modules.get(f"{self.name}.{path}")


def lightnings_class(instance: Any, name: str) -> type | None:
    """Returns the class of Lightning's of that name that an object, or a class, is one of; None if it is none.

    Lightning's Trainer calls the hooks of callbacks of both namespaces.
    """
    # By name, since a namespace need not be installed.
    packages = tuple(f"{namespace}." for namespace in NAMESPACES)
    classes = instance.__mro__ if isinstance(instance, type) else type(instance).__mro__
    return next((base for base in classes if base.__name__ == name and base.__module__.startswith(packages)), None)


def derives_from(instance: Any, name: str) -> bool:
    """Whether an object, or a class, is one of a class of Lightning's of that name, in either namespace."""
    return lightnings_class(instance, name) is not None


def namespace_of(instance: Any) -> Namespace:
    """Returns the namespace that an object's class, or a class, inherits from."""
    subclass = instance if isinstance(instance, type) else type(instance)
    for base in subclass.__mro__:
        for name in NAMESPACES:
            if base.__module__.startswith(f"{name}."):
                return Namespace(name)
    raise ConfigurationError(
        f"{caller_location()}: {subclass.__module__}.{subclass.__qualname__} is neither a LightningModule nor a "
        f"LightningDataModule or Callback of {' or '.join(NAMESPACES)}."
    )
