"""``check``: what of a module or a script works on Determined."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import pathlib
import sys
from typing import Any

from lightning_shim.cli.exit_code import FINE, REFUSED, UNUSABLE
from lightning_shim.cli.target import subjects_of
from lightning_shim.user_code.project import Project, SourceError, shown


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "check",
        help="say what of a module or a script works on Determined",
        description="Says what of a LightningModule, LightningDataModule or Lightning callback works on Determined. "
        "Your code is imported, and not run; Determined need not be installed. Of a script that makes a Trainer the "
        "arguments and callbacks are checked too. It is read, and imported only for the classes that it defines, if "
        'its training is under `if __name__ == "__main__":`.',
        epilog=f"exit code: {FINE} if nothing is refused, {REFUSED} if something is, {UNUSABLE} if there is "
        "nothing that can be checked",
    )
    parser.add_argument(
        "target",
        help="my_model:LitModel or path/to/my_model.py:LitModel; without :LitModel every such class that is defined "
        "there; or train.py",
    )
    parser.add_argument("--strict", action="store_true", help=f"exit with {REFUSED} if something is ignored as well")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.set_defaults(function=_check)


def _check(options: argparse.Namespace) -> int:
    # PyTorch is needed for this, but not to explain the command.
    from lightning_shim.compatibility.inspection import inspect_members, is_inspectable
    from lightning_shim.compatibility.script_source import inspect_script

    script = _script(options.target)
    reports = [] if script is None else inspect_script(script)
    if not reports or script is None or _is_to_be_imported(script):
        # What the import of the user's code prints must not get into the JSON document.
        with contextlib.redirect_stdout(sys.stderr):
            subjects = subjects_of(options.target, is_inspectable)
        reports += map(inspect_members, subjects)
    if options.json:
        print(json.dumps({"reports": [report.as_dict() for report in reports]}, indent=2))
    else:
        print("\n\n".join(map(str, reports)))
    is_fine = all(report.is_supported and not (options.strict and report.ignored) for report in reports)
    return FINE if is_fine else REFUSED


def _script(target: str) -> Project | None:
    """Reads a script; None for another target, and for a file that cannot be read, which its import will say."""
    try:
        return Project(pathlib.Path(target)) if target.endswith(".py") else None
    except SourceError:
        return None


def _is_to_be_imported(script: Project) -> bool:
    """Whether a script defines classes that can be checked, and its import does not train."""
    if not any(isinstance(node, ast.ClassDef) for node in script.script.tree.body):
        return False
    if not script.script.has_guard:
        print(
            f"{shown(script.script.path)}: its classes are not checked, since their import would train. Put the "
            'training under `if __name__ == "__main__":`.',
            file=sys.stderr,
        )
    return script.script.has_guard
