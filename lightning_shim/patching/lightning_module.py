"""The patches of Lightning's classes: what the table calls backed, where Lightning's own code would not find it.

A patched method acts only on a module that a trial has attached. Everything else that is backed is answered through the
module's ``trainer``, without a patch.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lightning_shim.diagnostics.errors import PatchError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import is_strict, set_strict
from lightning_shim.lightning1.hook_arguments import PASSED_ON, without_former_arguments
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE, attached_trainer
from lightning_shim.patching.registry import PatchRegistry, Wrapper
from lightning_shim.upstream.namespaces import NAMESPACES, Namespace


def _log(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    trainer = attached_trainer(instance)
    if trainer is None:
        return wrapped(*args, **kwargs)
    return trainer.collector.log(instance.__dict__[CURRENT_FX_ATTRIBUTE], *args, **kwargs)


def _log_dict(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    trainer = attached_trainer(instance)
    if trainer is None:
        return wrapped(*args, **kwargs)
    return trainer.collector.log_dict(instance.__dict__[CURRENT_FX_ATTRIBUTE], *args, **kwargs)


def _print(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    trainer = attached_trainer(instance)
    return wrapped(*args, **kwargs) if trainer is None else trainer.print(*args, **kwargs)


def _passed_on(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if attached_trainer(instance) is not None:
        args, kwargs = without_former_arguments(wrapped, args, kwargs)
    return wrapped(*args, **kwargs)


METHODS: Final[dict[str, Wrapper]] = {
    "log": _log,
    "log_dict": _log_dict,
    "print": _print,
    **dict.fromkeys(PASSED_ON, _passed_on),
}
"""By the name of the method of LightningModule."""

PROPERTIES: Final[dict[str, Callable[[Any], Any]]] = {
    "trainer": lambda trainer: trainer,
    "logger": lambda trainer: trainer.logger,
    "loggers": lambda trainer: trainer.loggers,
}
"""By the name of the property of LightningModule, what its getter answers, from the trial's facade."""

registry: Final = PatchRegistry()
"""Everything that this package has patched, Determined's loop included."""

_active = False
_trains_scripts = False


def patch_module(registry: PatchRegistry, owner: type[Any]) -> None:
    """Patches LightningModule.

    Args:
        registry: Undoes it.
        owner: The class.
    """
    from lightning_shim.patching.wrappers import patched_method, patched_property

    for name, wrapper in METHODS.items():
        registry.wrap(owner, name, patched_method(wrapper))
    for name, answer in PROPERTIES.items():
        registry.wrap(owner, name, patched_property(name, answer))


@dataclass(frozen=True)
class _Target:
    path: str
    """The module below the namespace."""
    class_name: str
    patch: str
    """``module:function`` that patches the class: what scripts need is imported only if scripts are to be trained."""
    is_for_scripts: bool = True
    """Whether it is patched only if scripts are to be trained."""

    def patch_in(self, module: Any) -> None:
        """Patches the class, if that is in force; called when the module has been imported."""
        with registry.lock:
            # While another thread imports it there may be no class yet; the hook is called when that has ended.
            owner = getattr(module, self.class_name, None)
            if owner is not None and (_trains_scripts if self.is_for_scripts else _active):
                with registry.transaction():
                    pkgutil.resolve_name(self.patch)(registry, owner)


_CONSTRUCTORS: Final = "lightning_shim.script.hyperparameters:patch_constructors"

_TARGETS: Final = (
    _Target("core.module", "LightningModule", f"{__name__}:patch_module", is_for_scripts=False),
    _Target("core.module", "LightningModule", _CONSTRUCTORS),
    _Target("core.datamodule", "LightningDataModule", _CONSTRUCTORS),
    _Target("trainer.trainer", "Trainer", "lightning_shim.script.trainer_patch:patch_trainer"),
)


@functools.cache
def _await_imports() -> None:
    """Has the classes patched when Lightning is imported, since importing it here would cost seconds.

    It is called with the registry's lock free: an import that it waits for may be one that patches.

    Raises:
        PatchError: If it is called by the import of one of the modules.
    """
    import wrapt

    for name, target in itertools.product(NAMESPACES, _TARGETS):
        namespace = Namespace(name)
        if namespace.imported(target.path) and not hasattr(namespace.module(target.path), target.class_name):
            # Another thread's import has been waited for, so it is this one's.
            raise PatchError(
                f"{caller_location()}: patch() is called while {name}.{target.path} is being imported, and "
                f"before {target.class_name} is there. Call it before or after that import."
            )
        wrapt.register_post_import_hook(target.patch_in, f"{name}.{target.path}")


def patch(*, strict: bool = False, trainer: bool = False) -> None:
    """Patches LightningModule, in ``pytorch_lightning`` and in ``lightning.pytorch``.

    It may be called before or after either is imported, and again. Modules that no trial has attached behave as before.

    Args:
        strict: Whether what would be warned about raises :class:`StrictModeError` instead.
        trainer: Whether ``Trainer.fit`` of a script is a trial on Determined, until :func:`unpatch` is called.

    Raises:
        PatchError: If a member cannot be patched, or it is called by the import of a class that it patches; nothing is
            patched then.
    """
    global _active, _trains_scripts
    _await_imports()
    with registry.lock:
        before = _active, _trains_scripts
        _active, _trains_scripts = True, trainer or _trains_scripts
        try:
            with registry.transaction():
                for name, target in itertools.product(NAMESPACES, _TARGETS):
                    module = Namespace(name).imported(target.path)
                    if module is not None:
                        target.patch_in(module)
        except BaseException:
            _active, _trains_scripts = before
            raise
        set_strict(strict)


def unpatch() -> None:
    """Restores every patched entry by identity.

    An entry that somebody else has patched since is reported with a :class:`PatchWarning` and left in place.
    """
    global _active, _trains_scripts
    with registry.lock:
        _active = _trains_scripts = False
        set_strict(False)
        registry.revert()


def is_patched() -> bool:
    """Returns whether :func:`patch` is in force."""
    return _active


@contextlib.contextmanager
def patched(*, strict: bool = False, trainer: bool = False) -> Iterator[None]:
    """Patches for a ``with`` block; what was in force before is in force after it.

    Args:
        strict: As in :func:`patch`.
        trainer: As in :func:`patch`.
    """
    was_patched, was_strict, trained_scripts = is_patched(), is_strict(), _trains_scripts
    patch(strict=strict, trainer=trainer)
    try:
        yield
    finally:
        if not was_patched or _trains_scripts is not trained_scripts:
            unpatch()
        if was_patched:
            patch(strict=was_strict, trainer=trained_scripts)
