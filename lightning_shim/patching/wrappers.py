"""The methods and properties that replace patched ones.

``import lightning_shim`` must not import it: wrapt imports asyncio, which takes longer than the rest of the package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import wrapt

from lightning_shim.patching.attachment import attached_trainer
from lightning_shim.patching.registry import Wrapper


class _BoundMethod(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]  # not at run time
    """A patched method, bound to its module.

    wrapt's own bound wrappers can be neither pickled nor copied, but the user may keep a method such as ``self.log`` in
    an attribute, which goes into checkpoints.
    """

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


def patched_method(wrapper: Wrapper) -> Callable[[Any], object]:
    """Returns the ``make_replacement`` of :meth:`PatchRegistry.wrap` for a method."""
    return lambda present: _Method(present, wrapper)


def patched_property(name: str, answer: Callable[[Any], Any]) -> Callable[[Any], object]:
    """Returns the ``make_replacement`` of :meth:`PatchRegistry.wrap` for a property."""

    def getter(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A property calls its getter as a plain function, so wrapt passes the module as the first argument.
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


def unpatched(method: Any) -> Any:
    """Returns Lightning's own method under a patched one."""
    return method.__wrapped__ if isinstance(method, _BoundMethod) else method
