"""``run``: a script for Lightning's Trainer, as a trial on Determined."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import Any

from lightning_shim.cli.exit_code import FINE
from lightning_shim.cli.target import TargetError


def add_parser(commands: Any) -> None:
    """Adds the command."""
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
    from lightning_shim.script.run import run_script, said_if_nothing_trains

    if options.is_module:
        if not getattr(sys.flags, "safe_path", False):
            # As for python -m; the console script has its own folder there instead.
            sys.path[0] = os.getcwd()
    elif not pathlib.Path(options.script).exists():
        raise TargetError(f"there is no file {options.script}.")
    with said_if_nothing_trains():
        run_script(options.script, options.arguments, options.is_module)
    return FINE
