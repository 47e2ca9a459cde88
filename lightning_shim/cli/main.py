"""The command line: ``python -m lightning_shim check`` and ``run``."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Final

from lightning_shim.cli.target import TargetError, subjects_of

SUPPORTED: Final = 0
REFUSED: Final = 1
UNUSABLE: Final = 2


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
    except TargetError as error:
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
    from lightning_shim.script.run import run_script

    if not options.is_module and not pathlib.Path(options.script).exists():
        raise TargetError(f"there is no file {options.script}.")
    run_script(options.script, options.arguments, options.is_module)
    return SUPPORTED


def _check(options: argparse.Namespace) -> int:
    # PyTorch is needed for this, but not to explain the command.
    from lightning_shim.compatibility.inspection import inspect_members, is_inspectable

    # What the import of the user's code prints must not get into the JSON document.
    with contextlib.redirect_stdout(sys.stderr):
        subjects = subjects_of(options.target, is_inspectable)
    reports = [inspect_members(subject) for subject in subjects]
    if options.json:
        print(json.dumps({"reports": [report.as_dict() for report in reports]}, indent=2))
    else:
        print("\n\n".join(map(str, reports)))
    is_fine = all(report.is_supported and not (options.strict and report.ignored) for report in reports)
    return SUPPORTED if is_fine else REFUSED
