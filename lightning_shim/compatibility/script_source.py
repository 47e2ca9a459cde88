"""``check`` of a script: what of its Trainer's arguments and its callbacks is different, read from the source.

Nothing is imported or run: importing most scripts would start their training. The support is in the table of Trainer
arguments and in the table of members.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from lightning_shim.compatibility.report import CompatibilityReport, Finding, Role
from lightning_shim.members.member import Member, Support
from lightning_shim.members.query import find
from lightning_shim.members.trainer_arguments import ARGUMENTS, is_switched_off
from lightning_shim.upstream.lightning_strategy import CLASS_NAMES, NO_DDP, problem_of_strategy
from lightning_shim.user_code.project import (
    ClassDefinition,
    NotLiteralError,
    Outside,
    Project,
    Resolved,
    SourceModule,
    methods_of,
    shown,
)
from lightning_shim.user_code.training_script import LIGHTNING_CLI, TRAINER, Call, calls_of


def inspect_script(project: Project) -> list[CompatibilityReport]:
    """Makes the report on a script; none if neither it nor the files that it imports make a Trainer."""
    calls = calls_of(project)
    kinds = {call: project.lightning_class(resolved) for call, resolved in calls}
    trainers = [call for call, kind in kinds.items() if kind in (TRAINER, LIGHTNING_CLI)]
    findings: list[Finding] = []
    unread: list[str] = []
    for call in trainers:
        # Those of the nearest file: what it imports may be a script itself.
        for name, value in _arguments(call, kinds[call]) if call.module is trainers[0].module else ():
            if name is None:
                unread.append(f"{ast.unparse(value)} ({call.place})")
            else:
                findings += _argument(project, call.module, name, value)
    for call, resolved in calls:
        findings += _callback(project, call, resolved)
    found = tuple(sorted(set(findings), key=lambda each: (each.file, each.line, each.member)))
    return [CompatibilityReport(shown(project.script.path), TRAINER, found, tuple(unread))] if trainers else []


def _arguments(call: Call, kind: str | None) -> Iterator[tuple[str | None, ast.expr]]:
    """Yields the arguments of a Trainer, each with its value; None stands for the names in a ``**dictionary``."""
    if kind == TRAINER:
        yield from ((keyword.arg, keyword.value) for keyword in call.node.keywords)
        return
    defaults = call.argument("trainer_defaults")
    if isinstance(defaults, ast.Dict):
        for key, value in zip(defaults.keys, defaults.values, strict=True):
            if isinstance(key, ast.Constant):
                yield str(key.value), value


def _argument(project: Project, module: SourceModule, name: str, value: ast.expr) -> Iterator[Finding]:
    row = ARGUMENTS.get(name)
    if row is None:
        return
    support, sentence, problem = row.support, row.sentence, None
    try:
        literal = module.literal(value)
    except NotLiteralError:
        origin = module.origin(value)
        strategy = project.resolve(module, origin.func) if name == "strategy" and isinstance(origin, ast.Call) else None
        if isinstance(strategy, Outside) and strategy.lightnings not in CLASS_NAMES:
            problem = NO_DDP
    else:
        if is_switched_off(literal):
            return
        problem = problem_of_strategy(literal) if name == "strategy" else None
    if problem is not None:
        support, sentence = Support.REFUSED, problem
    yield _finding(module, value, f"Trainer({name})", support, sentence, Role.USE, f"Trainer({name}=...)")


def _callback(project: Project, call: Call, resolved: Resolved) -> Iterator[Finding]:
    """Yields what becomes of a callback that the script makes, and of hooks in it that a trial never calls."""
    row = next((row for each in project.ancestry(resolved) if (row := _row(each)) is not None), None)
    if row is None:
        return
    if row.name != "Callback":
        name = ast.unparse(call.node.func)
        yield _finding(call.module, call.node, f"callbacks.{row.name}", row.support, row.sentence, Role.MADE, name)
    if isinstance(resolved, ClassDefinition):
        for name, (owner, node) in methods_of(project.ancestry(resolved)).items():
            hook = find("Callback", name)
            if hook is not None and hook.support in (Support.IGNORED, Support.REFUSED):
                spelling = f"{owner.name}.{name}"
                member = f"Callback.{name}"
                yield _finding(owner.module, node, member, hook.support, hook.sentence, Role.OVERRIDE, spelling)


def _row(resolved: Resolved) -> Member | None:
    return find("callbacks", resolved.lightnings or "") if isinstance(resolved, Outside) else None


def _finding(
    module: SourceModule, node: ast.AST, member: str, support: Support, sentence: str, role: Role, spelling: str
) -> Finding:
    line: int = getattr(node, "lineno", 1)
    return Finding(str(module.path), line, member, support, sentence, role, spelling, module.name)
