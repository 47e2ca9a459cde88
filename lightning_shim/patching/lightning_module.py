"""``patch`` and ``unpatch``, and the patches of LightningModule.

A patched method changes nothing unless its module is attached to a trial. Only a few members need a patch: Lightning's
own code for the others asks the module's ``trainer``, which the trial's facade answers.
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
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE, Attached, attached_trainer
from lightning_shim.patching.registry import PatchRegistry, Wrapper
from lightning_shim.upstream.namespaces import NAMESPACES, Namespace


def _log(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # As `attached_trainer`, whose call each logged value would pay for.
    state = {} if instance is None else instance.__dict__
    trainer = state.get("_trainer")
    # A barebones Trainer logs nothing, and Lightning's own method says so.
    if not isinstance(trainer, Attached) or trainer.barebones:
        return wrapped(*args, **kwargs)
    return trainer._lightning_shim_facade.metrics.collector.log(state[CURRENT_FX_ATTRIBUTE], args, kwargs)


def _log_dict(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    trainer = attached_trainer(instance)
    if trainer is None or trainer.barebones:
        return wrapped(*args, **kwargs)
    collector = trainer._lightning_shim_facade.metrics.collector
    return collector.log_dict(instance.__dict__[CURRENT_FX_ATTRIBUTE], *args, **kwargs)


def _print(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    trainer = attached_trainer(instance)
    if trainer is None or trainer.progress_bar_callback is not None:
        # It prints above a progress bar among the callbacks.
        return wrapped(*args, **kwargs)
    return trainer.print(*args, **kwargs)


# Code written for Lightning 1.x passes arguments such as optimizer_idx to Lightning's own methods, which have no such
# parameters any more.
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
"""The replacements by the name of LightningModule's method."""

PROPERTIES: Final[dict[str, Callable[[Any], Any]]] = {
    "trainer": lambda trainer: trainer,
    "logger": lambda trainer: trainer.logger,
    "loggers": lambda trainer: trainer.loggers,
}
"""The values for an attached module, computed from its trainer, by the name of LightningModule's property."""

registry: Final = PatchRegistry()
"""All patches of this package, those of Determined's loop included."""

_active = False
_trains_scripts = False


def patch_module(registry: PatchRegistry, owner: type[Any]) -> None:
    """Patches LightningModule."""
    from lightning_shim.patching.wrappers import patched_method, patched_property

    for name, wrapper in METHODS.items():
        registry.wrap(owner, name, patched_method(wrapper))
    for name, answer in PROPERTIES.items():
        registry.wrap(owner, name, patched_property(name, answer))


@dataclass(frozen=True)
class _Target:
    path: str
    """The name of its module below the namespace, or below hydra."""
    class_name: str
    patch: str
    """``module:function`` that patches the class. As text, it is imported only when it is needed, and this package does
    not depend on ``script``, which is above it."""
    is_for_scripts: bool = True
    """Whether it is patched only by ``patch(trainer=True)``."""

    def patch_in(self, module: Any) -> None:
        """Patches the class if patching is in force; called whenever its module has been imported."""
        with registry.lock:
            # While another thread imports the module it may have no class yet. The import hook will be called later.
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
    _Target("cli", "LightningCLI", "lightning_shim.script.command_line:patch_cli"),
)

_LOADER: Final = _Target(
    "_internal.config_loader_impl", "ConfigLoaderImpl", "lightning_shim.script.command_line:patch_hydra"
)


def _places() -> Iterator[tuple[str, _Target]]:
    """Yields all classes to patch, each with the package that it is below."""
    yield from itertools.product(NAMESPACES, _TARGETS)
    yield "hydra", _LOADER


@functools.cache
def _await_imports() -> None:
    """Registers import hooks that patch Lightning when the user imports it, since importing it here takes seconds.

    Call it without holding the registry's lock: it waits for imports in other threads, and these may need the lock.
    """
    import wrapt

    for name, target in _places():
        namespace = Namespace(name)
        if namespace.imported(target.path) and not hasattr(namespace.module(target.path), target.class_name):
            # `namespace.module` has waited for an import in another thread, so an unfinished one is in this thread.
            raise PatchError(
                f"{caller_location()}: patch() is called while {name}.{target.path} is being imported, and "
                f"before {target.class_name} is there. Call it before or after that import."
            )
        wrapt.register_post_import_hook(target.patch_in, f"{name}.{target.path}")


def patch(*, strict: bool = False, trainer: bool = False) -> None:
    """Patches LightningModule, in ``pytorch_lightning`` and in ``lightning.pytorch``.

    It may be called before or after either is imported, and more than once: the last ``strict`` holds. Modules that are
    not attached to a trial behave as before.

    Args:
        strict: Whether to raise :class:`StrictModeError` in place of warnings.
        trainer: Whether ``Trainer.fit`` runs as a trial on Determined, until :func:`unpatch` is called.

    Raises:
        PatchError: If a member cannot be patched, or if the call comes from the import of a class to patch. Nothing is
            patched then.
    """
    global _active, _trains_scripts
    _await_imports()
    with registry.lock:
        before = _active, _trains_scripts
        _active, _trains_scripts = True, trainer or _trains_scripts
        try:
            with registry.transaction():
                for name, target in _places():
                    module = Namespace(name).imported(target.path)
                    if module is not None:
                        target.patch_in(module)
        except BaseException:
            _active, _trains_scripts = before
            raise
        set_strict(strict)


def unpatch() -> None:
    """Undoes all patches.

    A member that somebody else has patched since stays as it is, with a :class:`PatchWarning`.
    """
    global _active, _trains_scripts
    with registry.lock:
        _active = _trains_scripts = False
        set_strict(False)
        registry.revert()


def is_patched() -> bool:
    """Whether :func:`patch` is in force."""
    return _active


@contextlib.contextmanager
def patched(*, strict: bool = False, trainer: bool = False) -> Iterator[None]:
    """Patches for a ``with`` block, and restores the previous state after it.

    Args:
        strict: As in :func:`patch`.
        trainer: As in :func:`patch`.
    """
    was_patched, was_strict, trained_scripts = is_patched(), is_strict(), _trains_scripts
    patch(strict=strict, trainer=trainer)
    try:
        yield
    finally:
        # `patch` only ever adds the patches for scripts, so removing them takes an unpatch.
        if not was_patched or _trains_scripts is not trained_scripts:
            unpatch()
        if was_patched:
            patch(strict=was_strict, trainer=trained_scripts)
