"""The hyperparameters of a search, which override the options of LightningCLI and the configuration of hydra.

A hyperparameter is the option, or the entry of the configuration, that has its name, such as ``model.optim.lr``. One
that is not there is left alone, where the command line would take it for an error.

Of hydra it relies on ``ConfigLoaderImpl.load_configuration``, which composes the configuration of a script, of each run
of a multirun, and of ``hydra.compose``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lightning_shim.patching.registry import PatchRegistry
from lightning_shim.patching.wrappers import patched_method
from lightning_shim.script.hyperparameters import searched_hyperparameters, take
from lightning_shim.session.hyperparameters import Replacement, leaves, nested, replaced


def _parse_arguments(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Has LightningCLI parse its arguments once more, with the trial's hyperparameters behind them."""
    wrapped(*args, **kwargs)
    subcommand = instance.config.get("subcommand")
    config = instance.config[subcommand] if subcommand else instance.config
    options: dict[str, Any] = {}
    replacements: list[Replacement] = []
    for option, value, replaced_there in _options(config, searched_hyperparameters(), "", ""):
        options[option] = value
        replacements += replaced_there
    if not replacements:
        return
    take(type(instance).__qualname__, replacements)
    bound = inspect.signature(wrapped).bind(*args, **kwargs)
    given = bound.arguments["args"]
    texts = [
        f"--{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in options.items()
    ]
    if isinstance(given, (dict, argparse.Namespace)):
        own = given if isinstance(given, dict) else given.as_dict()
        prefix = f"{subcommand}." if subcommand else ""
        tree = nested({f"{prefix}{name}": value for name, value in options.items()})
        bound.arguments["args"], _ = replaced(own, tree, "")
    elif given is not None:
        bound.arguments["args"] = [*given, *texts]
    arguments = sys.argv
    sys.argv = [*arguments, *texts] if given is None else arguments
    try:
        wrapped(*bound.args, **bound.kwargs)
    finally:
        sys.argv = arguments


def _options(
    config: Any, hparams: Mapping[str, Any], name: str, option: str
) -> Iterator[tuple[str, Any, list[Replacement]]]:
    """Yields the options of LightningCLI that hyperparameters are for, with their new values and what these replace.

    Names begin with ``name`` and its dot, options with ``option``; those of a class are below its ``init_args``.
    """
    for key, value in hparams.items():
        is_in_class = key not in config and "init_args" in config
        options, before = (config["init_args"], f"{option}init_args.") if is_in_class else (config, option)
        present = options.get(key)
        if isinstance(value, Mapping) and isinstance(present, argparse.Namespace):
            yield from _options(present, value, f"{name}{key}.", f"{before}{key}.")
        elif key in options and not (isinstance(value, Mapping) and present is None):
            # A dictionary is one option: text for one of its entries would stay text.
            yield f"{before}{key}", *replaced(present, value, f"{name}{key}")


def patch_cli(registry: PatchRegistry, owner: type[Any]) -> None:
    """Patches ``LightningCLI``."""
    registry.wrap(owner, "parse_arguments", patched_method(_parse_arguments))


def _load_configuration(
    wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Has hydra compose its configuration once more, with the trial's hyperparameters behind the overrides."""
    configuration = wrapped(*args, **kwargs)
    bound = inspect.signature(wrapped).bind(*args, **kwargs)
    overrides, replacements = bound.arguments["overrides"], []
    for name, value in leaves(searched_hyperparameters()):
        found = _entry(configuration, name)
        if found is not None:
            before, overrides = overrides, _overridden(overrides, name, json.dumps(value, ensure_ascii=False))
            # A multirun composes each run with the overrides that it has already.
            replacements.append(Replacement(name, value, value if overrides == before else found[0]))
    take("hydra", replacements)
    if overrides == bound.arguments["overrides"]:
        return configuration
    bound.arguments["overrides"] = overrides
    return wrapped(*bound.args, **bound.kwargs)


def _entry(configuration: Any, name: str) -> tuple[Any] | None:
    """Returns the value of an entry, or None if there is no such entry."""
    for part in name.split("."):
        # A value that is still to be given ("???") is among the keys alone.
        if not isinstance(configuration, Mapping) or part not in list(configuration):
            return None
        configuration = configuration.get(part)
    return (configuration,)


def _overridden(overrides: list[str], name: str, text: str) -> list[str]:
    """Returns hydra's overrides with one more; it takes the place of the user's own, since a group allows only one."""
    names = [override.partition("=")[0] for override in overrides]
    if name not in [each.lstrip("+") for each in names]:
        return [*overrides, f"{name}={text}"]
    pairs = zip(names, overrides, strict=True)
    return [f"{each}={text}" if each.lstrip("+") == name else override for each, override in pairs]


def patch_hydra(registry: PatchRegistry, owner: type[Any]) -> None:
    """Patches hydra's loader of configurations."""
    registry.wrap(owner, "load_configuration", patched_method(_load_configuration))
