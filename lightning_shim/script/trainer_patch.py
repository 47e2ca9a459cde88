"""The patches of Lightning's ``Trainer``, which make a script's own ``fit`` a trial on Determined."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.members.member import Support
from lightning_shim.members.trainer_arguments import ARGUMENTS, is_switched_off
from lightning_shim.patching.registry import PatchRegistry, Wrapper
from lightning_shim.patching.wrappers import patched_method
from lightning_shim.script.trainer_while_fitting import METHODS as OF_TRIAL
from lightning_shim.script.trainer_while_fitting import trials_method
from lightning_shim.upstream.lightning_devices import refuse_contradictions
from lightning_shim.upstream.lightning_plugins import Plugins
from lightning_shim.upstream.lightning_strategy import is_distributed, keep_in_this_process, problem_of_strategy
from lightning_shim.upstream.namespaces import namespace_of

GIVEN: Final = "_lightning_shim_arguments"
"""The entry of a Trainer's ``__dict__`` with the arguments that the user has passed."""


# This module imports Determined only inside functions, so that patching alone stays quick.
def _accelerator() -> str:
    from lightning_shim.upstream.determined.context import accelerator

    return accelerator()


_AS_DETERMINED: Final[dict[str, Callable[[], Any]]] = {
    "accelerator": _accelerator,
    "devices": lambda: 1,
    "num_nodes": lambda: 1,
}
"""Values of arguments that need no warning, since Determined does the same."""


def _init(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from lightning_shim.script.configuration import asked_arguments
    from lightning_shim.script.default_logger import logger_of
    from lightning_shim.script.strategy import strategy_of
    from lightning_shim.upstream.determined.context import devices

    given = dict(kwargs)
    refuse_contradictions(namespace_of(instance), given)
    plugins = Plugins(namespace_of(instance), given)
    _verify(given, plugins)
    given["sync_batchnorm"] = plugins.synchronises_batch_norm or given.get("sync_batchnorm", False)
    vars(instance)[GIVEN] = given
    own = {
        **kwargs,
        **asked_arguments(inspect.signature(wrapped), given),
        "num_nodes": 1,
        "strategy": strategy_of(instance, given),
        "plugins": plugins.used or None,
        "accelerator": _accelerator(),
        "devices": devices(),
        "logger": logger_of(instance, given),
    }
    wrapped(*args, **own)
    if is_distributed(instance.strategy):
        keep_in_this_process(instance)


def _verify(given: dict[str, Any], plugins: Plugins) -> None:
    for name, value in given.items():
        row = ARGUMENTS.get(name)
        # An unknown argument is left to Lightning's own error.
        if row is None or is_switched_off(value):
            continue
        if name == "strategy":
            _verify_strategy(value)
        if row.support is Support.IGNORED and not (name in _AS_DETERMINED and value == _AS_DETERMINED[name]()):
            warn_at_caller(f"Trainer({name}={value!r}) is ignored: {row.sentence}")
    for plugin in plugins.refused:
        raise _refusal("plugins", plugin, ARGUMENTS["plugins"].sentence)
    for plugin in plugins.ignored:
        warn_at_caller(
            f"Trainer(plugins={plugin!r}) is ignored: Determined starts the processes; off-cluster torchrun does."
        )


def _verify_strategy(strategy: Any) -> None:
    problem = problem_of_strategy(strategy)
    if problem is not None:
        raise _refusal("strategy", strategy, problem)


def _refusal(name: str, value: Any, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{caller_location()}: Trainer({name}={value!r}) is refused: {reason}")


def _fit(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from lightning_shim.script.fit import arguments_of, fit_script, verify_tuning
    from lightning_shim.upstream.lightning_trainer import finders, is_tuning, searching

    # A search runs Lightning's own loop over and over within a hook, and puts everything back.
    if is_tuning(instance):
        verify_tuning("a Tuner")
        return wrapped(*args, **kwargs)
    for finder in finders(instance):
        verify_tuning(type(finder).__name__)
        with searching(instance, finder):
            wrapped(*args, **kwargs)
    return fit_script(instance, **arguments_of(wrapped, args, kwargs))


def _recorded(verb: str) -> Wrapper:
    def evaluate(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from lightning_shim.script.evaluation import record_evaluation

        results = _evaluated(wrapped, instance, args, kwargs)
        record_evaluation(verb, results)
        return results

    return evaluate


def _evaluated(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from lightning_shim.script.evaluation import share_checkpoint
    from lightning_shim.script.fit import arguments_of
    from lightning_shim.session.progress_bar import kept_out_of_a_log

    share_checkpoint(instance, arguments_of(wrapped, args, kwargs).get("ckpt_path"))
    with kept_out_of_a_log(instance.progress_bar_callback):
        return wrapped(*args, **kwargs)


def _of_trial(name: str) -> Wrapper:
    def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return trials_method(name, wrapped, instance)(*args, **kwargs)

    return call


METHODS: Final[dict[str, Wrapper]] = {
    "__init__": _init,
    "fit": _fit,
    **{name: _of_trial(name) for name in OF_TRIAL},
    **{verb: _recorded(verb) for verb in ("validate", "test")},
    "predict": _evaluated,
}
"""The replacements by the name of Trainer's method."""


def patch_trainer(registry: PatchRegistry, owner: type[Any]) -> None:
    """Patches Lightning's ``Trainer``."""
    for name, wrapper in METHODS.items():
        registry.wrap(owner, name, patched_method(wrapper))
