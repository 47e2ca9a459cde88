"""``check``: what of a module works on Determined."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any

from lightning_shim.cli.exit_code import FINE, REFUSED, UNUSABLE
from lightning_shim.cli.target import subjects_of


def add_parser(commands: Any) -> None:
    """Adds the command.

    Args:
        commands: What ``add_subparsers`` has returned.
    """
    parser = commands.add_parser(
        "check",
        help="say what of a module works on Determined",
        description="Says what of a LightningModule, LightningDataModule or Lightning callback works on Determined. "
        "Your code is imported, and not run; Determined need not be installed.",
        epilog=f"exit code: {FINE} if nothing is refused, {REFUSED} if something is, {UNUSABLE} if there is "
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
    return FINE if is_fine else REFUSED
