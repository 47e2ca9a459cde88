"""The command line: ``python -m lightning_shim check`` and ``run``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType, TracebackType
from typing import Any, Final

SUPPORTED: Final = 0
REFUSED: Final = 1
UNUSABLE: Final = 2


class _TargetError(Exception):
    """There is nothing that can be checked; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command and its arguments; by default those of the process.

    Returns:
        The exit code: 0, 1 if something is refused, 2 if the command cannot be carried out.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_shim", description="Trains unchanged PyTorch Lightning modules on Determined AI."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(commands)
    _add_run(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.function(options))
    except _TargetError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return UNUSABLE


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="say what of a module works on Determined",
        description="Says what of a LightningModule, LightningDataModule or Lightning callback works on Determined. "
        "Your code is imported, and not run; Determined need not be installed.",
        epilog=f"exit code: {SUPPORTED} if nothing is refused, {REFUSED} if something is, {UNUSABLE} if there is "
        "nothing that can be checked",
    )
    parser.add_argument(
        "target",
        help="my_model:LitModel or path/to/my_model.py:LitModel; without :LitModel every such class that is defined "
        "there",
    )
    parser.add_argument("--strict", action="store_true", help=f"exit with {REFUSED} if something is ignored as well")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.set_defaults(function=_check)


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a script for Lightning's Trainer on Determined",
        description="Runs an unchanged script as python does, and trains what it gives to Trainer.fit as a trial on "
        "Determined: off-cluster, or as the entrypoint of an experiment.",
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="run a module, as python -m does")
    parser.add_argument("script", help="the script, or the module's name")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    parser.set_defaults(function=_run)


def _run(options: argparse.Namespace) -> int:
    from lightning_shim.script_run import run_script

    if not options.is_module and not pathlib.Path(options.script).exists():
        raise _TargetError(f"there is no file {options.script}.")
    run_script(options.script, options.arguments, options.is_module)
    return SUPPORTED


def _check(options: argparse.Namespace) -> int:
    # PyTorch is needed for this, but not to explain the command.
    from lightning_shim.compatibility import inspect_members, is_inspectable

    # What the import of the user's code prints must not get into the JSON document.
    with contextlib.redirect_stdout(sys.stderr):
        subjects = _subjects(options.target, is_inspectable)
    reports = [inspect_members(subject) for subject in subjects]
    if options.json:
        print(json.dumps({"reports": [report.as_dict() for report in reports]}, indent=2))
    else:
        print("\n\n".join(map(str, reports)))
    is_fine = all(report.is_supported and not (options.strict and report.ignored) for report in reports)
    return SUPPORTED if is_fine else REFUSED


def _subjects(target: str, is_inspectable: Callable[[Any], bool]) -> list[Any]:
    """Imports what is to be checked."""
    name, _, attribute = target.partition(":")
    module = _imported(name)
    if not attribute:
        subjects = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__ and is_inspectable(value)
        ]
        if not subjects:
            raise _TargetError(f"{name} defines no LightningModule, LightningDataModule or Callback.")
        return list(dict.fromkeys(subjects))
    subject: Any = module
    for part in attribute.split("."):
        if not hasattr(subject, part):
            raise _TargetError(f"{name} has no {attribute}.")
        subject = getattr(subject, part)
    if not is_inspectable(subject):
        raise _TargetError(f"{target} is no LightningModule, LightningDataModule or Callback.")
    return [subject]


def _imported(name: str) -> ModuleType:
    """Imports a module, by its name or by the path of its file."""
    # As for python -m; a script that is called otherwise would not find it.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    path = pathlib.Path(name).resolve() if name.endswith(".py") else None
    if path is not None:
        if not path.is_file():
            raise _TargetError(f"there is no file {name}.")
        name = _module_name(path)
    try:
        module = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        users_part = _users_part(error.__traceback__)
        if isinstance(error, ModuleNotFoundError) and users_part is None:
            raise _TargetError(f"there is no module {name}.") from error
        traceback.print_exception(type(error), error, users_part)
        raise _TargetError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if path is not None and path != pathlib.Path(module.__file__ or "").resolve():
        raise _TargetError(f"{path} cannot be imported, since there is another module {name}: {module.__file__}.")
    return module


def _module_name(path: pathlib.Path) -> str:
    """Returns the name by which a file can be imported, as a part of its package if it is in one."""
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    return ".".join(parts)


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    """Leaves out the frames of this file and of Python's import."""
    while frames is not None:
        filename = frames.tb_frame.f_code.co_filename
        if filename != __file__ and not filename.startswith("<frozen importlib") and filename != importlib.__file__:
            return frames
        frames = frames.tb_next
    return None
