"""The module that a script trains and the arguments of its constructor, read from the source. Standard library only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES
from lightning_shim.user_code.project import (
    ClassDefinition,
    NotLiteralError,
    Outside,
    Project,
    Resolved,
    SourceError,
    SourceModule,
    argument,
    bound,
    keyword_only,
    methods_of,
    positional,
    shown,
)

MODULE: Final = "LightningModule"
DATA_MODULE: Final = "LightningDataModule"

OWN_FIT: Final = "lightning_shim.fit"
TRAINER: Final = "Trainer"
LIGHTNING_CLI: Final = "LightningCLI"

_TRIAL: Final = Outside("lightning_shim.LightningTrial")
_PATCH: Final = Outside("lightning_shim.patch")
_LOAD: Final = "load_from_checkpoint"


@dataclass(frozen=True, slots=True)
class Call:
    """A call in the project."""

    module: SourceModule
    node: ast.Call

    @property
    def place(self) -> str:
        """``"file:line"``."""
        return self.module.place(self.node)

    def argument(self, name: str, position: int | None = None) -> ast.expr | None:
        """Returns the expression of an argument, or None if it is not passed."""
        return argument(self.node, name, position)

    def literal(self, name: str, position: int | None = None) -> Any:
        """Returns the value of an argument, or None if it is not passed or the source does not tell its value."""
        node = self.argument(name, position)
        try:
            return None if node is None else self.module.literal(node)
        except NotLiteralError:
            return None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a constructor, with the value that the script passes."""

    name: str
    place: str  # `"file:line"` of the value
    has_value: bool  # whether the source tells the value
    value: Any = None
    text: str = ""  # the value's source; empty if there is none


@dataclass(frozen=True, slots=True)
class Monitor:
    """The metric that a callback monitors."""

    metric: str
    mode: str | None  # `min` or `max`; None if the source does not tell
    place: str  # `"file:line"`


@dataclass(slots=True)
class TrainingScript:
    """A script's training."""

    project: Project
    way: str  # the way of training: `OWN_FIT`, `TRAINER` or `LIGHTNING_CLI`; empty if the script itself trains nothing
    call: Call | None  # the call of that function or class, which has the settings
    module: ClassDefinition
    datamodule: ClassDefinition | None  # the LightningDataModule, or None
    # The arguments of the training, each with its file.
    trained: list[tuple[SourceModule, ast.expr]] = field(default_factory=list)
    monitors: list[Monitor] = field(default_factory=list)  # the metrics that its callbacks monitor
    patches_trainer: bool = False  # whether the script itself calls `patch(trainer=True)`

    @property
    def built(self) -> list[ClassDefinition]:
        """The classes whose constructors get the experiment's hyperparameters."""
        classes = [self.module, *([] if self.datamodule is None else [self.datamodule])]
        if self.way != OWN_FIT:
            return classes
        # lightning_shim.fit trains an object as it is, and builds only classes.
        objects = [self.project.resolve(owner, node.func) for owner, node in self.trained if isinstance(node, ast.Call)]
        return [each for each in classes if each not in objects]

    def parameters(self, configured: Mapping[str, Mapping[str, Any]], config_place: str) -> Iterator[Parameter]:
        """Yields the parameters of the constructors with the script's values, once for each call of a class.

        The values of a configuration file are by the name of Lightning's class and by parameter.
        """
        given = self.call.argument("hparams") if self.way == OWN_FIT and self.call is not None else None
        of_fit: dict[str, ast.expr] = {}
        if isinstance(given, ast.Dict):
            for key, value in zip(given.keys, given.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    of_fit[key.value] = value
        for definition in self.built:
            kind = self.project.lightning_class(definition) or ""
            of_file = configured.get(kind, {})
            calls = list(self._constructions(definition)) if self.way in (TRAINER, LIGHTNING_CLI) else []
            for name, default, default_module in self._constructor(definition):
                if name in of_file:
                    yield Parameter(name, config_place, True, of_file[name], repr(of_file[name]))
                elif name in of_fit and self.call is not None:
                    yield _parameter(name, self.call.module, of_fit[name])
                elif not calls:
                    yield _parameter(name, default_module, default, definition)
                else:
                    for call in calls:
                        yield self._given(call, definition, name, default, default_module)

    def _given(
        self, call: Call, definition: ClassDefinition, name: str, default: ast.expr | None, default_module: SourceModule
    ) -> Parameter:
        """Returns a parameter with the value that a call passes."""
        # Further values may come from *args or from the checkpoint, neither of which the source shows.
        is_open = any(isinstance(each, ast.Starred) for each in call.node.args) or _is_load(call.node)
        positional = [each for each, _, _ in self._constructor(definition, only_positional=True)]
        given = bound(call.node, [] if is_open else positional)
        if name in given:
            return _parameter(name, call.module, given[name])
        if is_open or any(keyword.arg is None for keyword in call.node.keywords):
            return Parameter(name, call.place, False, text=ast.unparse(call.node))
        return _parameter(name, default_module, default, definition)

    def _constructor(
        self, definition: ClassDefinition, only_positional: bool = False
    ) -> list[tuple[str, ast.expr | None, SourceModule]]:
        """Returns the parameters of a constructor, with their defaults and the file of these."""
        found = methods_of(self.project.ancestry(definition)).get("__init__")
        # The constructors of Lightning's own classes take no hyperparameters.
        if found is None or found[0].module.name.partition(".")[0] in FRAMEWORK_PACKAGES:
            return []
        owner, node = found
        parameters = list(positional(node).items())[1:] + ([] if only_positional else list(keyword_only(node).items()))
        return [(name, default, owner.module) for name, default in parameters]

    def _constructions(self, definition: ClassDefinition) -> Iterator[Call]:
        for module in self.project.files():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call) and self.project.resolve(module, node.func) is definition:
                    yield Call(module, node)
        for module, value in self.trained:
            match value:
                case ast.Call(func=ast.Attribute(value=owner)) if _is_load(value):
                    if self.project.resolve(module, owner) is definition:
                        yield Call(module, value)


def _is_load(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == _LOAD


def _parameter(
    name: str, module: SourceModule, node: ast.expr | None, definition: ClassDefinition | None = None
) -> Parameter:
    if node is None:
        return Parameter(name, definition.place if definition is not None else "", False)
    try:
        origin = module.origin(node)
        return Parameter(name, module.place(origin), True, module.literal(node), ast.unparse(origin))
    except NotLiteralError:
        return Parameter(name, module.place(node), False, text=ast.unparse(node))


def read_training_script(project: Project, class_name: str = "", class_path: str = "") -> TrainingScript:
    """Finds the training in a script; SourceError is raised if the source does not tell which module is trained.

    The user may have named the LightningModule, or a configuration file of LightningCLI may have its full name.
    """
    calls = calls_of(project)
    way, call = _training_call(project, calls)
    trained = list(_trained(way, call, calls))
    objects = {kind: _of_kind(project, trained, kind) for kind in (MODULE, DATA_MODULE)}
    if class_name or class_path:
        found = project.resolve(project.script, ast.parse(class_name, mode="eval").body) if class_name else None
        chosen = found or (project.named(class_path) if class_path else None)
        if not isinstance(chosen, ClassDefinition) or project.lightning_class(chosen) != MODULE:
            where = shown(project.script.path)
            raise SourceError(f"{where} has no LightningModule {class_name or class_path}.")
        module = chosen
    else:
        module = _only_module(project, objects[MODULE])
    data = objects[DATA_MODULE] or _mentioned(project, DATA_MODULE)
    if not way and any(_TRIAL in project.ancestry(each) for each in _classes(project.script, project)):
        raise SourceError(
            f"{shown(project.script.path)} defines a LightningTrial and trains nothing by itself: call "
            'lightning_shim.fit in it, under `if __name__ == "__main__":`. With Determined\'s older entry point, '
            "`model_def:MyTrial`, the YAML file has the length of the training; write that one by hand."
        )
    return TrainingScript(
        project,
        way,
        call,
        module,
        data[0] if len(data) == 1 else None,
        trained,
        list(_monitors(project, calls)),
        any(resolved == _PATCH and each.literal("trainer") is True for each, resolved in calls),
    )


def calls_of(project: Project) -> list[tuple[Call, Resolved]]:
    """Returns all calls in a project, each with the class that is called, if it is known."""
    return [
        (Call(module, node), project.resolve(module, node.func))
        for module in project.files()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
    ]


def _training_call(project: Project, calls: list[tuple[Call, Resolved]]) -> tuple[str, Call | None]:
    """Finds the way of training, and the call that has its settings."""
    found: dict[str, list[Call]] = {}
    for call, resolved in calls:
        if not {Outside(OWN_FIT), _TRIAL}.isdisjoint(project.ancestry(resolved)):
            found.setdefault(OWN_FIT, []).append(call)
        kind = project.lightning_class(resolved)
        if kind in (LIGHTNING_CLI, TRAINER):
            found.setdefault(kind, []).append(call)
    # The first that is found counts: a script that calls lightning_shim.fit may still have a Trainer for testing.
    for way in (OWN_FIT, LIGHTNING_CLI, TRAINER):
        # A Trainer without a length is most likely one for testing.
        with_length = [each for each in found.get(way, []) if each.argument("max_epochs") or each.argument("max_steps")]
        if way in found:
            return way, [*with_length, *found[way]][0]
    return "", None


def _trained(
    way: str, call: Call | None, calls: list[tuple[Call, Resolved]]
) -> Iterator[tuple[SourceModule, ast.expr]]:
    """Yields the arguments of the training, with names replaced by the expressions assigned to them."""
    given = [call] if call is not None and way in (OWN_FIT, LIGHTNING_CLI) else []
    if way == TRAINER:
        given = [
            each for each, _ in calls if isinstance(each.node.func, ast.Attribute) and each.node.func.attr == "fit"
        ]
    for each in given:
        for node in [*each.node.args, *(keyword.value for keyword in each.node.keywords)]:
            values = each.module.assignments.values.get(node.id, []) if isinstance(node, ast.Name) else []
            yield from ((each.module, value) for value in values or [node])


def _of_kind(project: Project, arguments: list[tuple[SourceModule, ast.expr]], kind: str) -> list[ClassDefinition]:
    found = []
    for module, node in arguments:
        target = node.func if isinstance(node, ast.Call) else node
        # LitModel(...), or a class method such as LitModel.load_from_checkpoint(...).
        candidates = [target, target.value] if isinstance(target, ast.Attribute) else [target]
        for each in (project.resolve(module, candidate) for candidate in candidates):
            if isinstance(each, ClassDefinition) and project.lightning_class(each) == kind and each not in found:
                found.append(each)
    return found


def _classes(module: SourceModule, project: Project) -> list[ClassDefinition]:
    named = (node for node in ast.walk(module.tree) if isinstance(node, (ast.Name, ast.Attribute)))
    defined = (ast.Name(id=name, ctx=ast.Load()) for name in module.bindings)
    found = (project.resolve(module, node) for node in [*named, *defined])
    return list(dict.fromkeys(each for each in found if isinstance(each, ClassDefinition)))


def _mentioned(project: Project, kind: str) -> list[ClassDefinition]:
    """Finds the classes of a kind that the script mentions, or else those that the nearest of its files does."""
    for module in project.files():
        found = [each for each in _classes(module, project) if project.lightning_class(each) == kind]
        # A base of another one is there to be derived from, not to be trained.
        bases = {id(base) for each in found for base in project.ancestry(each)[1:]}
        found = [each for each in found if id(each) not in bases]
        if found:
            return found
    return []


def _only_module(project: Project, given: list[ClassDefinition]) -> ClassDefinition:
    found = given or _mentioned(project, MODULE)
    script = shown(project.script.path)
    if not found:
        raise SourceError(
            f"{script}: neither it nor the files that it imports have a LightningModule. Name the script that trains "
            "one: lightning_shim init train.py"
        )
    if len(found) > 1:
        listed = ", ".join(f"{each.name} ({each.place})" for each in found)
        raise SourceError(f"{script} may train any of {listed}. Say which one: {script}:{found[0].name}")
    return found[0]


def _monitors(project: Project, calls: list[tuple[Call, Resolved]]) -> Iterator[Monitor]:
    # Only EarlyStopping takes the metric by position, and the default mode of both is "min".
    for name, position in (("ModelCheckpoint", None), ("EarlyStopping", 0)):
        for call, resolved in calls:
            if project.lightning_class(resolved) == name:
                metric = call.literal("monitor", position)
                if isinstance(metric, str):
                    has_mode = call.argument("mode") is not None
                    yield Monitor(metric, call.literal("mode") if has_mode else "min", call.place)
