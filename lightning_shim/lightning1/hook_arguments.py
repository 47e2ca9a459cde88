"""The arguments that Lightning 1.x had in hooks, for modules that still take them, or pass them on to Lightning's own.

Lightning 2 took the index of the optimizer, and some others, out of its hooks. A hook that has them in its signature is
called with them; a call of Lightning's own method that passes them is stripped of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

FormerValue = Callable[[tuple[Any, ...]], Any]
Values = Mapping[str, FormerValue]
"""Gives the value of a former argument by its name, from the arguments that Lightning 2 passes."""


@dataclass(frozen=True, slots=True)
class FormerArguments:
    """What Lightning 1.x passed to a hook beside what Lightning 2 passes.

    Attributes:
        count: The number of positional arguments that Lightning 2 passes.
        position: Where the former ones stood among them.
        names: Their names.
        keywords: Others that were passed by name, where the hook takes them.
        by_name: What Lightning 2 passes by name.
        kept_for_several_loaders: Whether Lightning 2 still passes them if there are several loaders.
    """

    count: int
    position: int
    names: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    by_name: tuple[str, ...] = ()
    kept_for_several_loaders: bool = False


_OPTIMIZER_IDX: Final = ("optimizer_idx",)
_DATALOADER_IDX: Final = ("dataloader_idx",)

FORMER_ARGUMENTS: Final[dict[str, FormerArguments]] = {
    "optimizer_step": FormerArguments(4, 3, _OPTIMIZER_IDX, ("on_tpu", "using_native_amp", "using_lbfgs")),
    "optimizer_zero_grad": FormerArguments(3, 3, _OPTIMIZER_IDX),
    "on_before_optimizer_step": FormerArguments(1, 1, _OPTIMIZER_IDX),
    "configure_gradient_clipping": FormerArguments(
        1, 1, _OPTIMIZER_IDX, by_name=("gradient_clip_val", "gradient_clip_algorithm")
    ),
    "lr_scheduler_step": FormerArguments(2, 1, _OPTIMIZER_IDX),
    "toggle_optimizer": FormerArguments(1, 1, _OPTIMIZER_IDX),
    "backward": FormerArguments(1, 1, ("optimizer", "optimizer_idx")),
    "on_train_batch_start": FormerArguments(2, 2, _DATALOADER_IDX),
    "on_train_batch_end": FormerArguments(3, 3, _DATALOADER_IDX),
    "on_validation_batch_start": FormerArguments(2, 2, _DATALOADER_IDX, kept_for_several_loaders=True),
    "on_validation_batch_end": FormerArguments(3, 3, _DATALOADER_IDX, kept_for_several_loaders=True),
    "on_train_epoch_end": FormerArguments(0, 0, ("outputs",)),
}
"""By the hook's name."""

PASSED_ON: Final = (
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "toggle_optimizer",
    "backward",
    "manual_backward",
)
"""Lightning's own methods that modules of Lightning 1.x call with former arguments, through ``super()`` or ``self``."""

FORMER_LOG_ARGUMENTS: Final = frozenset({"tbptt_reduce_fx", "tbptt_pad_token"})
"""What ``self.log`` took in Lightning 1.x, and what changes nothing: how to join the splits of a batch."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes_argument(function: Callable[..., Any], name: str) -> bool:
    """Tells whether a function has a parameter of a name.

    Args:
        function: A user's hook, bound.
        name: The parameter's name.
    """
    return name in inspect.signature(function).parameters


def positional_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Returns the parameters of a function that can be passed by position, one by one.

    Args:
        function: A user's hook, bound.
    """
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind in _POSITIONAL]


def with_former_arguments(name: str, hook: Callable[..., Any], values: Values, leading: int = 0) -> Callable[..., Any]:
    """Makes a hook callable as Lightning 2 calls it.

    Args:
        name: The hook's name.
        hook: The user's hook, bound.
        values: Gives the values of former arguments.
        leading: The number of arguments before the module's own: a callback gets the trainer and the module first.

    Returns:
        The hook itself, unless its signature is one of Lightning 1.x.
    """
    former = FORMER_ARGUMENTS.get(name)
    if former is None:
        return hook
    parameters = inspect.signature(hook).parameters
    positional = [parameter for parameter in positional_parameters(hook) if parameter.name not in former.by_name]
    required = [parameter for parameter in positional if parameter.default is inspect.Parameter.empty]
    has_room = len(positional) >= leading + former.count + len(former.names)
    if not (has_room and (parameters.keys() & set(former.names) or len(required) > leading + former.count)):
        return hook
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    keywords = [keyword for keyword in former.keywords if takes_any or keyword in parameters]
    position, count = leading + former.position, leading + former.count

    @functools.wraps(hook)
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.update((keyword, values[keyword](args)) for keyword in keywords)
        if not (former.kept_for_several_loaders and len(args) > count):
            args = (*args[:position], *(values[former_name](args) for former_name in former.names), *args[position:])
        return hook(*args, **kwargs)

    return call


def without_last_argument(hook: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Makes a hook callable that had one argument less at first.

    Args:
        hook: The user's hook, bound.
        count: The number of arguments that Lightning 2 passes.

    Returns:
        The hook itself, unless it does not take as many.
    """
    try:
        inspect.signature(hook).bind(*range(count))
    except TypeError:
        return functools.wraps(hook)(lambda *args: hook(*args[:-1]))
    return hook


def without_former_arguments(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Strips a call of one of Lightning's own methods, one of :data:`PASSED_ON`, of former arguments.

    Args:
        method: Lightning's method, bound.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.

    Returns:
        The arguments that the method of Lightning 2 takes.
    """
    former = FORMER_ARGUMENTS.get(method.__name__, FORMER_ARGUMENTS["backward"])
    kwargs = {name: value for name, value in kwargs.items() if name not in (*former.names, *former.keywords)}
    parameters = inspect.signature(method).parameters
    if "args" in parameters:
        # Whatever follows the loss goes to Tensor.backward, which takes no optimizer.
        rest = args[1:]
        has_index = len(rest) > 1 and (rest[1] is None or type(rest[1]) is int)
        if rest and (hasattr(rest[0], "param_groups") or (rest[0] is None and has_index)):
            rest = rest[2:] if has_index else rest[1:]
        return (*args[:1], *rest), kwargs
    room = len(parameters) - len(kwargs)
    if len(args) > room:
        args = (*args[: former.position], *args[former.position + len(former.names) :])[:room]
    return args, kwargs
