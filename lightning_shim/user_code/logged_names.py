"""The names that a module logs in validation, read from its source. Standard library only.

The methods that validation hooks call on ``self`` are followed, with the strings that they are called with. So
``self.log(f"{stage}_loss", ...)`` has a name if a hook passes ``stage="val"``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lightning_shim.user_code.project import ClassDefinition, NotLiteralError, Project

_HOOKS: Final = (
    "validation_step",
    "validation_step_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_epoch_end",
    "validation_epoch_end",
)
"""The hooks that may log in validation. ``LOG_LEVELS`` in ``metrics.log_settings`` has those of training as well."""

_BATCH_HOOKS: Final = _HOOKS[:4]
"""The hooks that run for a batch, so that the loader of a value is known."""

OF_THE_FIRST_LOADER: Final = "/dataloader_idx_0"
"""Lightning's suffix for the values of the first of several loaders."""


@dataclass(slots=True)
class LoggedNames:
    """The names that a module logs in validation.

    Attributes:
        places: ``"file:line"`` by name, in the order of the source.
        unread: The places of names that only running the code would tell.
        has_validation: Whether there is a ``validation_step``.
    """

    places: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    has_validation: bool = False


def names_logged_in_validation(project: Project, module: ClassDefinition) -> LoggedNames:
    """Finds the names of the values that a module reports for each validation.

    Args:
        project: The project that defines the module.
        module: The LightningModule.

    Returns:
        The names that it logs; if it logs none, the keys of the dictionary that ``validation_step`` returns.
    """
    reader = _Reader(project, module)
    for hook in _HOOKS:
        if hook in reader.methods:
            reader.read_hook(hook)
    logged = reader.logged
    logged.has_validation = "validation_step" in reader.methods
    if logged.has_validation and not logged.places and not logged.unread:
        definition, node = reader.methods["validation_step"]
        for returned in ast.walk(node):
            match returned:
                case ast.Return(value=ast.Dict(keys=keys)):
                    for key in keys:
                        if isinstance(key, ast.Constant) and isinstance(key.value, str):
                            logged.places.setdefault(key.value, definition.module.place(key))
    return logged


class _Reader:
    """Reads the hooks and the methods that they call."""

    def __init__(self, project: Project, module: ClassDefinition) -> None:
        self._ancestry: Final = [each for each in project.ancestry(module) if isinstance(each, ClassDefinition)]
        self.methods: Final = project.methods(module)
        self.logged: Final = LoggedNames()
        self._reading: Final[list[ast.FunctionDef]] = []
        self._suffix = ""

    def read_hook(self, hook: str) -> None:
        definition, node = self.methods[hook]
        named = [*node.args.posonlyargs, *node.args.args]
        # A required dataloader_idx shows that the module has several loaders; with a default it may have one.
        without_default = named[: len(named) - len(node.args.defaults)]
        has_several = any(argument.arg == "dataloader_idx" for argument in without_default)
        self._suffix = OF_THE_FIRST_LOADER if hook in _BATCH_HOOKS and has_several else ""
        self._read(definition, node, {})

    def _read(self, definition: ClassDefinition, node: ast.FunctionDef, given: Mapping[str, Any]) -> None:
        if node in self._reading:
            # The method calls itself, directly or through another one.
            return
        self._reading.append(node)
        scope = _Scope(definition, node, given)
        for call in ast.walk(node):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if owner == scope.itself:
                    self._read_call(name, call, scope)
                case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name)):
                    self._follow(self._after(definition, name), call, scope)
        self._reading.pop()

    def _read_call(self, name: str, call: ast.Call, scope: _Scope) -> None:
        if name in self.methods:
            self._follow(self.methods[name], call, scope)
        elif name == "log":
            node = _argument(call, "name", 0)
            self._keep(call, [scope.text(node)] if node is not None else [], scope)
        elif name == "log_dict":
            node = _argument(call, "dictionary", 0)
            self._keep(call, list(scope.keys(node)) if node is not None else [], scope)

    def _keep(self, call: ast.Call, names: list[str | None], scope: _Scope) -> None:
        place = scope.definition.module.place(call)
        flags = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        if flags.get("on_epoch") is False:
            # Such a value belongs to a batch rather than to the validation.
            return
        # Lightning's names: logging on both step and epoch gives two, of which this one is the epoch's.
        ending = "_epoch" if flags.get("on_step") is True else ""
        if flags.get("add_dataloader_idx") is not False:
            ending += self._suffix
        for name in names:
            if name is None:
                self.logged.unread.append(place)
            else:
                self.logged.places.setdefault(f"{name}{ending}", place)

    def _after(self, definition: ClassDefinition, name: str) -> tuple[ClassDefinition, ast.FunctionDef] | None:
        """Finds the method that ``super()`` in a class refers to."""
        position = self._ancestry.index(definition)
        found = ((each, each.methods()[name]) for each in self._ancestry[position + 1 :] if name in each.methods())
        return next(found, None)

    def _follow(self, target: tuple[ClassDefinition, ast.FunctionDef] | None, call: ast.Call, scope: _Scope) -> None:
        if target is None:
            return
        definition, node = target
        parameters = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
        if not any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list):
            parameters = parameters[1:]
        given = dict(zip(parameters, call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
        values = {name: text for name, each in given.items() if (text := scope.text(each)) is not None}
        known = {name: value for name, value in _defaults(definition, node).items() if name not in given}
        self._read(definition, node, {**known, **values})


class _Scope:
    """The values of the names in a method.

    Args:
        definition: The method's class.
        node: The method.
        given: The strings that it is called with, by parameter.
    """

    def __init__(self, definition: ClassDefinition, node: ast.FunctionDef, given: Mapping[str, Any]) -> None:
        self.definition: Final = definition
        self._node: Final = node
        self._given: Final = given
        arguments = [*node.args.posonlyargs, *node.args.args]
        self.itself: Final = arguments[0].arg if arguments else ""
        self._parameters: Final = {argument.arg for argument in [*arguments, *node.args.kwonlyargs]}
        self._assigned: Final[dict[str, list[ast.expr]]] = {}
        for each in ast.walk(node):
            match each:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self._assigned.setdefault(name, []).append(value)

    def text(self, node: ast.expr) -> str | None:
        """Returns the string that an expression evaluates to in validation, or None if the source does not tell."""
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.Constant(value=int(value)):
                return str(value)
            case ast.JoinedStr(values=parts):
                return self._joined([self.text(part) for part in parts])
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self.text(value)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([self.text(left), self.text(right)])
            # self.training is False in validation.
            case ast.IfExp(test=ast.Attribute(value=ast.Name(id=self.itself), attr="training"), orelse=otherwise):
                return self.text(otherwise)
            case ast.Name(id=name) if name in self._given and name not in self._assigned:
                return str(self._given[name])
            # A parameter that is not called with a string.
            case ast.Name(id=name) if name in self._parameters:
                return None
            case ast.Name(id=name) if len(self._assigned.get(name, [])) == 1:
                # While it is evaluated the name is unknown, so that `name = name + "x"` does not recurse for ever.
                [value] = self._assigned.pop(name)
                text = self.text(value)
                self._assigned[name] = [value]
                return text
            case ast.Name():
                return self._constant(node)
        return None

    def _joined(self, parts: list[str | None]) -> str | None:
        known = [part for part in parts if part is not None]
        return "".join(known) if len(known) == len(parts) else None

    def _constant(self, node: ast.Name) -> str | None:
        try:
            value = self.definition.module.literal(node)
        except NotLiteralError:
            return None
        return value if isinstance(value, str) else None

    def keys(self, node: ast.expr) -> Iterator[str | None]:
        """Yields the keys of a dictionary, None for each that the source does not tell."""
        match node:
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if key is None:
                        yield from self.keys(value)
                    else:
                        yield self.text(key)
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
                yield from (keyword.arg for keyword in keywords)
            case ast.Name(id=name) if name not in self._parameters and len(self._assigned.get(name, [])) == 1:
                yield from self.keys(self._assigned[name][0])
                yield from self._added_to(name)
            case _:
                yield None

    def _added_to(self, name: str) -> Iterator[str | None]:
        for each in ast.walk(self._node):
            match each:
                case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=owner), slice=key)]) if owner == name:
                    yield self.text(key)


def _argument(call: ast.Call, name: str, position: int) -> ast.expr | None:
    if len(call.args) > position:
        return call.args[position]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _defaults(definition: ClassDefinition, node: ast.FunctionDef) -> dict[str, Any]:
    """Returns the defaults of a method that are strings, by parameter."""
    arguments = [*node.args.posonlyargs, *node.args.args]
    pairs = list(zip(reversed(arguments), reversed(node.args.defaults), strict=False))
    pairs += [
        (argument, default)
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if default is not None
    ]
    return {
        argument.arg: default.value
        for argument, default in pairs
        if isinstance(default, ast.Constant) and isinstance(default.value, str)
    }
