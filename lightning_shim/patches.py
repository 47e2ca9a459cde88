"""The patches of Lightning's classes: what the table calls backed, where Lightning's own code would not find it.

A patched method acts only on a module that a trial has attached. Everything else that is backed is answered through the
module's ``trainer``, without a patch.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

import wrapt

from lightning_shim import _warnings
from lightning_shim._attachment import CURRENT_FX_ATTRIBUTE, attached_trainer
from lightning_shim._registry import PatchRegistry
from lightning_shim._versions import NAMESPACES, Namespace
from lightning_shim.former_arguments import PASSED_ON, without_former_arguments
from lightning_shim.script import TRAINER_METHODS
from lightning_shim.script_hyperparameters import Constructor, is_users_constructor

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]

_CLASS_MODULE: Final = "core.module"
_CLASS_NAME: Final = "LightningModule"
_TRAINER_MODULE: Final = "trainer.trainer"
_DATA_MODULE: Final = "core.datamodule"


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


class _BoundMethod(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]  # not at run time
    """A patched method of a module, which can be copied and pickled as any method can."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        owner = self._self_owner if self._self_instance is None else self._self_instance
        return getattr, (owner, self.__wrapped__.__name__)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._self_instance is None:
            return self
        return getattr(copy.deepcopy(self._self_instance, memo), self.__wrapped__.__name__)


class _Method(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # not at run time
    __bound_function_wrapper__ = _BoundMethod


def _patched_method(wrapper: Wrapper) -> Callable[[Any], object]:
    return lambda present: _Method(present, wrapper)


def _patched_property(name: str, answer: Callable[[Any], Any]) -> Callable[[Any], object]:
    def getter(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A property calls its getter as a plain function, so that the module is the first argument.
        trainer = attached_trainer(args[0])
        return wrapped(*args, **kwargs) if trainer is None else answer(trainer)

    def make(present: property) -> property:
        assert present.fget is not None
        # A FunctionWrapper around the property itself would lose its setter.
        wrapped = wrapt.FunctionWrapper(present.fget, getter)
        replacement = property(wrapped, present.fset, present.fdel, present.__doc__)
        if hasattr(replacement, "__set_name__"):
            # Since Python 3.11 a property names itself in its errors.
            replacement.__set_name__(type(present), name)
        return replacement

    return make


def _patch_namespace(module: Any) -> None:
    """Patches one namespace's LightningModule; called when its module has been imported."""
    with registry.lock:
        if _active:
            with registry.transaction():
                owner = getattr(module, _CLASS_NAME, None)
                if owner is None:
                    # Its import goes on, perhaps in another thread; the hook is called when it has ended.
                    return
                for name, wrapper in METHODS.items():
                    registry.wrap(owner, name, _patched_method(wrapper))
                for name, answer in PROPERTIES.items():
                    registry.wrap(owner, name, _patched_property(name, answer))


def _patch_trainer(module: Any) -> None:
    """Patches one namespace's Trainer, if scripts are to be trained; called when its module has been imported."""
    with registry.lock:
        owner = getattr(module, "Trainer", None)
        if _trains_scripts and owner is not None:
            with registry.transaction():
                for name, wrapper in TRAINER_METHODS.items():
                    registry.wrap(owner, name, _patched_method(wrapper))


def _patch_constructors(class_name: str) -> Callable[[Any], None]:
    """Patches the constructors of the user's classes, those to come included, if scripts are to be trained."""

    def patch_module(module: Any) -> None:
        with registry.lock:
            owner = getattr(module, class_name, None)
            if _trains_scripts and owner is not None:
                with registry.transaction():
                    registry.wrap(owner, "__init_subclass__", lambda present: _init_subclass_of(owner))
                    for subclass in _subclasses(owner):
                        _patch_constructor(subclass)

    return patch_module


def _init_subclass_of(owner: type[Any]) -> classmethod[Any, Any, None]:
    def init_subclass(cls: type[Any], /, **kwargs: Any) -> None:
        super(owner, cls).__init_subclass__(**kwargs)
        _patch_constructor(cls)

    return classmethod(init_subclass)


def _subclasses(owner: type[Any]) -> Iterator[type[Any]]:
    for subclass in owner.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _patch_constructor(owner: type[Any]) -> None:
    if is_users_constructor(owner):
        registry.wrap(owner, "__init__", Constructor)


_PATCHED_MODULES: Final[tuple[tuple[str, Callable[[Any], None]], ...]] = (
    (_CLASS_MODULE, _patch_namespace),
    (_CLASS_MODULE, _patch_constructors(_CLASS_NAME)),
    (_DATA_MODULE, _patch_constructors("LightningDataModule")),
    (_TRAINER_MODULE, _patch_trainer),
)

for _name in NAMESPACES:
    # Before the import of Lightning nothing is there to patch, and importing it here would cost seconds.
    for _path, _patch_module in _PATCHED_MODULES:
        wrapt.register_post_import_hook(_patch_module, f"{_name}.{_path}")


def unpatched(method: Any) -> Any:
    """Returns what a patched method calls where no trial is concerned.

    Args:
        method: A bound method.

    Returns:
        Lightning's own method, bound; the method itself if it is not patched.
    """
    return method.__wrapped__ if isinstance(method, _BoundMethod) else method


def patch(*, strict: bool = False, trainer: bool = False) -> None:
    """Patches LightningModule, in ``pytorch_lightning`` and in ``lightning.pytorch``.

    It may be called before or after either is imported, and again. Modules that no trial has attached behave as before.

    Args:
        strict: Whether what would be warned about raises :class:`StrictModeError` instead.
        trainer: Whether ``Trainer.fit`` of a script is a trial on Determined, until :func:`unpatch` is called.

    Raises:
        PatchError: If a member cannot be patched; nothing is patched then.
    """
    global _active, _trains_scripts
    with registry.lock:
        before = _active, _trains_scripts
        _active, _trains_scripts = True, trainer or _trains_scripts
        try:
            with registry.transaction():
                for name in NAMESPACES:
                    for path, patch_module in _PATCHED_MODULES:
                        module = Namespace(name).imported(path)
                        if module is not None:
                            patch_module(module)
        except BaseException:
            _active, _trains_scripts = before
            raise
        _warnings.set_strict(strict)


def unpatch() -> None:
    """Restores every patched entry by identity.

    An entry that somebody else has patched since is reported with a :class:`PatchWarning` and left in place.
    """
    global _active, _trains_scripts
    with registry.lock:
        _active = _trains_scripts = False
        _warnings.set_strict(False)
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
    was_patched, was_strict, trained_scripts = is_patched(), _warnings.is_strict(), _trains_scripts
    patch(strict=strict, trainer=trainer)
    try:
        yield
    finally:
        if not was_patched or _trains_scripts is not trained_scripts:
            unpatch()
        if was_patched:
            patch(strict=was_strict, trainer=trained_scripts)
