"""The command line: ``lightning_shim COMMAND`` or ``python -m lightning_shim COMMAND``."""

from __future__ import annotations

import argparse
import itertools
import pathlib
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from lightning_shim.cli import check, init, run
from lightning_shim.cli.exit_code import UNUSABLE
from lightning_shim.cli.target import TargetError

_PROGRAM: Final = "lightning_shim"

_NAMED_BY_VERSION: Final = ("pytorch-lightning", "lightning", "determined", "torch")
"""The distributions that a report of an error should name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 1 if something is refused, 2 if it cannot be carried out."""
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Trains unchanged PyTorch Lightning modules on Determined AI.",
        # Leaves the versions on one line.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=_versions(), help="print the versions of everything involved"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (check, run, init):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.function(options))
    except TargetError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return UNUSABLE


def _program() -> str:
    """Names the program as the user has called it."""
    return _PROGRAM if pathlib.Path(sys.argv[0]).name == _PROGRAM else f"python -m {_PROGRAM}"


def _versions() -> str:
    """Names what is installed: the package itself need not be, where it is a folder beside the user's code."""

    def named(distribution: str) -> list[str]:
        try:
            return [f"{distribution} {version(distribution)}"]
        except PackageNotFoundError:
            return []

    own, others = named(_PROGRAM) or [_PROGRAM], itertools.chain.from_iterable(map(named, _NAMED_BY_VERSION))
    return f"{own[0]} ({', '.join([*others, f'Python {platform.python_version()}'])})"
