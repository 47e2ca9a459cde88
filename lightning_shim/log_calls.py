"""Finds what is wrong with a ``self.log`` call from its text alone: the arguments that are literals, and the hook."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lightning_shim.former_arguments import FORMER_LOG_ARGUMENTS
from lightning_shim.log_settings import LOG_LEVELS, argument_problem, level_problem, name_problem, reduction_problem

LOG_METHODS: Final = ("log", "log_dict")

_UNKNOWN: Final = object()
_ANY_LEVEL: Final = (None, False, True)


def log_problem(call: ast.Call, written: str, parameters: Sequence[str], hook: str | None) -> tuple[str, str] | None:
    """Says what is wrong with a call; the rules are those that the running trial has.

    Args:
        call: The call.
        written: How the user's code has the function: ``"self.log"``.
        parameters: The names of the parameters of Lightning's own function.
        hook: The hook that the call stands in, or None if it stands in another method.

    Returns:
        The call with what is wrong about it, and a sentence; None if nothing is.
    """
    arguments, has_all = _literals(call, parameters)
    place = "" if hook is None else f" in {hook}"
    for argument in arguments:
        if argument not in parameters and argument not in FORMER_LOG_ARGUMENTS:
            return f"{written}({argument}=...){place}", argument_problem(argument)
    problem = _level_problem(arguments, has_all, LOG_LEVELS if hook is None else [hook])
    if problem is not None:
        given = {name: arguments.get(name, _UNKNOWN) for name in ("on_step", "on_epoch")}
        levels = ", ".join(f"{name}={value}" for name, value in given.items() if value is not _UNKNOWN)
        can_log = hook is None or hook in LOG_LEVELS
        return f"{written}({levels}){place}" if can_log else f"{written}{place}", problem
    reduction = arguments.get("reduce_fx")
    if isinstance(reduction, str) and (problem := reduction_problem(reduction)) is not None:
        return f"{written}(reduce_fx={reduction!r}){place}", problem
    name, adds_index = arguments.get("name"), arguments.get("add_dataloader_idx", True if has_all else _UNKNOWN)
    if isinstance(name, str) and adds_index is True and (problem := name_problem(name, adds_index)) is not None:
        return f"{written}({name!r}){place}", problem
    return None


def _literals(call: ast.Call, parameters: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Returns the arguments by name, those that are no literals as unknown, and whether that is all of them."""
    positional = list(itertools.takewhile(lambda node: not isinstance(node, ast.Starred), call.args))
    given: dict[str, ast.expr] = dict(zip(parameters, positional, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    has_all = len(positional) == len(call.args) and all(keyword.arg is not None for keyword in call.keywords)
    literals = {name: node.value if isinstance(node, ast.Constant) else _UNKNOWN for name, node in given.items()}
    return literals, has_all


def _level_problem(arguments: dict[str, Any], has_all: bool, hooks: Iterable[str]) -> str | None:
    """Finds a problem that there is in each of the hooks, whatever the arguments are that are not known."""

    def possible(name: str) -> Iterable[Any]:
        value = arguments.get(name, None if has_all else _UNKNOWN)
        return _ANY_LEVEL if value is _UNKNOWN else [value]

    cases = itertools.product(hooks, possible("on_step"), possible("on_epoch"))
    problems = [level_problem(*case) for case in cases]
    return problems[0] if all(problem is not None for problem in problems) else None
