"""The arguments of hooks that only Lightning 1.x had, such as ``optimizer_idx``.

A user's hook with such a parameter is called with its value. A call of Lightning's own method that passes such an
argument, as through ``super()``, is made without it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

FormerValue = Callable[[tuple[Any, ...]], Any]
Values = Mapping[str, FormerValue]
"""The functions that compute former arguments from those that Lightning 2 passes, by the name of the argument."""


@dataclass(frozen=True, slots=True)
class FormerArguments:
    """The arguments that Lightning 1.x passed to a hook in addition to those of Lightning 2."""

    count: int  # the number of positional arguments that Lightning 2 passes
    position: int  # the index among these at which the former ones are inserted
    names: tuple[str, ...]  # the names of the former positional arguments
    keywords: tuple[str, ...] = ()  # former arguments that were passed by name, if the hook takes them
    by_name: tuple[str, ...] = ()  # the arguments that Lightning 2 passes by name
    # Whether Lightning 2 still passes the former arguments if there are several loaders.
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
"""The former arguments by the hook's name."""

PASSED_ON: Final = (
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "toggle_optimizer",
    "backward",
    "manual_backward",
)
"""Methods of LightningModule that code for Lightning 1.x calls with former arguments, on ``super()`` or ``self``."""

FORMER_LOG_ARGUMENTS: Final = frozenset({"tbptt_reduce_fx", "tbptt_pad_token"})
"""Arguments of ``self.log`` in Lightning 1.x that can be dropped: they joined the splits of a batch."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of a given name."""
    return name in inspect.signature(function).parameters


def positional_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Returns the positional parameters of a function, without ``*args``."""
    return [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind in _POSITIONAL]


def with_former_arguments(name: str, hook: Callable[..., Any], values: Values, leading: int = 0) -> Callable[..., Any]:
    """Makes a hook with a signature of Lightning 1.x callable with the arguments of Lightning 2.

    ``values`` compute former arguments. A callback's hook has two ``leading`` arguments, the trainer and the module.
    """
    former = FORMER_ARGUMENTS.get(name)
    if former is None:
        return hook
    parameters = inspect.signature(hook).parameters
    positional = [parameter for parameter in positional_parameters(hook) if parameter.name not in former.by_name]
    required = [parameter for parameter in positional if parameter.default is inspect.Parameter.empty]
    # The signature alone has to tell: a parameter with a former name, unless Lightning 2 has it too, or one more
    # required parameter than Lightning 2 passes, whatever its name.
    has_room = len(positional) >= leading + former.count + len(former.names)
    has_name = not former.kept_for_several_loaders and parameters.keys() & set(former.names)
    if not (has_room and (has_name or len(required) > leading + former.count)):
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
    """Makes a hook that lacks the last parameter, as in early versions, callable with all arguments.

    A hook that takes all of them is returned unchanged.
    """
    try:
        inspect.signature(hook).bind(*range(count))
    except TypeError:
        return functools.wraps(hook)(lambda *args: hook(*args[:-1]))
    return hook


def without_former_arguments(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Removes the former arguments from a call of one of Lightning's own methods, of :data:`PASSED_ON`."""
    # manual_backward, the only one that is no hook, had the same former arguments as backward.
    former = FORMER_ARGUMENTS.get(method.__name__, FORMER_ARGUMENTS["backward"])
    kwargs = {name: value for name, value in kwargs.items() if name not in (*former.names, *former.keywords)}
    parameters = inspect.signature(method).parameters
    if "args" in parameters:
        # backward(loss, *args) passes the rest to Tensor.backward, so an optimizer and its index have to be recognized
        # by what they are: the object has param_groups, and the index is an int, or None for manual optimization.
        rest = args[1:]
        has_index = len(rest) > 1 and (rest[1] is None or type(rest[1]) is int)
        if rest and (hasattr(rest[0], "param_groups") or (rest[0] is None and has_index)):
            rest = rest[2:] if has_index else rest[1:]
        return (*args[:1], *rest), kwargs
    room = len(parameters) - len(kwargs)
    if len(args) > room:
        args = (*args[: former.position], *args[former.position + len(former.names) :])[:room]
    return args, kwargs
