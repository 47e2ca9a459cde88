"""The names that a module logs, in validation and elsewhere, read from its source. Standard library only.

The methods that validation hooks call on ``self`` are followed, with the strings that they are called with. So
``self.log(f"{stage}_loss", ...)`` has a name if a hook passes ``stage="val"``.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import members
from lightning_shim.user_code.project import (
    Ancestry,
    Assignments,
    ClassDefinition,
    Import,
    NotLiteralError,
    SourceModule,
    argument,
    bound,
    keyword_only,
    methods_of,
    positional,
)

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

_Position = tuple[str, int, int]
"""The file, the line and the column of a call."""


@dataclass(slots=True)
class LoggedNames:
    """The names that a module logs."""

    places: dict[str, str] = field(default_factory=dict)  # `"file:line"` by name, in the order of the source
    unread: list[str] = field(default_factory=list)  # the places of names that only running the code would tell
    has_validation: bool = False  # whether there is a `validation_step`
    calls: set[_Position] = field(default_factory=set)  # the calls that log them


def logged_in_validation(ancestry: Ancestry) -> LoggedNames:
    """Finds the names of the values that a module, given with its bases, reports for each validation.

    If it logs none, they are the keys of the dictionary that ``validation_step`` returns.
    """
    reader = _Reader(ancestry, trains=False)
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


def logged_elsewhere(ancestry: Ancestry) -> LoggedNames:
    """Finds the names of the values that a module logs in any other hook than those of validation.

    The calls are also those in hooks that no trial calls.
    """
    reader, never_called = _Reader(ancestry, trains=True), _Reader(ancestry, trains=False)
    for row in members("LightningModule"):
        if row.kind is Kind.HOOK and row.name not in _HOOKS and row.name in reader.methods:
            (never_called if row.support is Support.IGNORED else reader).read_hook(row.name)
    reader.logged.calls |= never_called.logged.calls
    return reader.logged


def logged_otherwise(module: SourceModule, involved: Collection[int], known: Collection[_Position]) -> LoggedNames:
    """Finds what a file may log outside the hooks of the module: through a callback, a submodule or a function.

    The classes at the ``involved`` lines take part in the training; the ``known`` calls are left out.
    """
    found = LoggedNames()
    nodes: list[tuple[ast.AST, bool, str]] = [(module.tree, False, "")]
    while nodes:
        node, is_in_other_class, other_self = nodes.pop()
        if isinstance(node, ast.ClassDef):
            is_in_other_class = node.lineno not in involved
        elif isinstance(node, ast.FunctionDef):
            other_self = node.args.args[0].arg if is_in_other_class and node.args.args else other_self
            is_in_other_class = False
        nodes += [(child, is_in_other_class, other_self) for child in ast.iter_child_nodes(node)]
        match node:
            case (
                ast.Subscript(value=ast.Attribute(attr="callback_metrics"), ctx=ast.Store())
                | ast.Call(func=ast.Attribute(value=ast.Attribute(attr="callback_metrics"), attr="update"))
            ):
                found.unread.append(module.place(node))
            case ast.Call(func=ast.Attribute(value=owner, attr="log" | "log_dict")) if node.args or node.keywords:
                if _position(module, node) not in known and not _is_of_another(owner, module, other_self):
                    _keep_literals(found, module, node)
    return found


def _is_of_another(owner: ast.expr, module: SourceModule, other_self: str) -> bool:
    """Whether ``log`` is not Lightning's: it is a package's, as in ``torch.log``, or a class's that takes no part."""
    root = owner
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return False
    is_package = isinstance(module.bindings.get(root.id), Import)
    return is_package or (owner is root and root.id == other_self)


def _keep_literals(found: LoggedNames, module: SourceModule, call: ast.Call) -> None:
    place = module.place(call)
    match argument(call, "name", 0) or argument(call, "dictionary", 0):
        case ast.Constant(value=str(name)):
            found.places.setdefault(name, place)
        case ast.Dict(keys=keys):
            for key in keys:
                if isinstance(key, ast.Constant):
                    found.places.setdefault(str(key.value), place)
                else:
                    found.unread.append(place)
        case _:
            found.unread.append(place)


def _position(module: SourceModule, node: ast.Call) -> _Position:
    return str(module.path), node.lineno, node.col_offset


class _Reader:
    """Reads the hooks and the methods that they call."""

    def __init__(self, ancestry: Ancestry, trains: bool) -> None:
        self._ancestry: Final = ancestry
        self._trains: Final = trains
        self.methods: Final = methods_of(ancestry)
        self.logged: Final = LoggedNames()
        self._reading: Final[list[ast.FunctionDef]] = []
        self._suffix = ""

    def read_hook(self, hook: str) -> None:
        definition, node = self.methods[hook]
        # A required dataloader_idx shows that the module has several loaders; with a default it may have one.
        has_several = positional(node).get("dataloader_idx", node) is None
        self._suffix = OF_THE_FIRST_LOADER if hook in _BATCH_HOOKS and has_several else ""
        self._read(definition, node, {})

    def _read(self, definition: ClassDefinition, node: ast.FunctionDef, given: Mapping[str, Any]) -> None:
        if node in self._reading:
            # The method calls itself, directly or through another one.
            return
        self._reading.append(node)
        scope = _Scope(definition, node, given, self._trains)
        for call in ast.walk(node):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if owner == scope.itself:
                    self._read_call(name, call, scope)
                case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name)):
                    after = self._ancestry[self._ancestry.index(definition) + 1 :]
                    self._follow(methods_of(after).get(name), call, scope)
        self._reading.pop()

    def _read_call(self, name: str, call: ast.Call, scope: _Scope) -> None:
        if name in self.methods:
            self._follow(self.methods[name], call, scope)
        elif name == "log":
            node = argument(call, "name", 0)
            self._keep(call, [scope.text(node)] if node is not None else [], scope)
        elif name == "log_dict":
            node = argument(call, "dictionary", 0)
            self._keep(call, list(scope.keys(node)) if node is not None else [], scope)

    def _keep(self, call: ast.Call, names: list[str | None], scope: _Scope) -> None:
        place = scope.definition.module.place(call)
        self.logged.calls.add(_position(scope.definition.module, call))
        flags = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        if flags.get("on_epoch") is False and not self._trains:
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

    def _follow(self, target: tuple[ClassDefinition, ast.FunctionDef] | None, call: ast.Call, scope: _Scope) -> None:
        if target is None:
            return
        definition, node = target
        parameters = list(positional(node))
        if not any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list):
            parameters = parameters[1:]
        given = bound(call, parameters)
        values = {name: text for name, each in given.items() if (text := scope.text(each)) is not None}
        known = {name: value for name, value in _defaults(node).items() if name not in given}
        self._read(definition, node, {**known, **values})


class _Scope:
    """The values of the names in a method, which is called with the strings that are given by parameter."""

    def __init__(
        self, definition: ClassDefinition, node: ast.FunctionDef, given: Mapping[str, Any], trains: bool
    ) -> None:
        self.definition: Final = definition
        self._node: Final = node
        self._given: Final = given
        self._trains: Final = trains
        self.itself: Final = next(iter(positional(node)), "")
        self._assigned: Final = Assignments(node)

    def text(self, node: ast.expr) -> str | None:
        """Returns the string that an expression evaluates to, or None if the source does not tell."""
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
            case ast.IfExp(
                test=ast.Attribute(value=ast.Name(id=self.itself), attr="training"), body=body, orelse=otherwise
            ):
                return self.text(body if self._trains else otherwise)
            # A parameter is stored once, by the call.
            case ast.Name(id=name) if name in self._given and self._assigned.stores[name] == 1:
                return str(self._given[name])
            case ast.Name(id=name) if (only := self._assigned.only(name)) is not None:
                # While it is evaluated the name is unknown, so that `name = name + "x"` does not recurse for ever.
                del self._assigned.values[name]
                text = self.text(only)
                self._assigned.values[name] = [only]
                return text
            case ast.Name(id=name) if not self._assigned.stores[name]:
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
            case ast.Name(id=name) if (only := self._assigned.only(name)) is not None:
                yield from self.keys(only)
                yield from self._added_to(name)
            case _:
                yield None

    def _added_to(self, name: str) -> Iterator[str | None]:
        for each in ast.walk(self._node):
            match each:
                case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=owner), slice=key)]) if owner == name:
                    yield self.text(key)
                case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="update" | "setdefault")) if (
                    owner == name
                ):
                    yield None


def _defaults(node: ast.FunctionDef) -> dict[str, Any]:
    """Returns the defaults of a method that are strings, by parameter."""
    return {
        name: default.value
        for name, default in {**positional(node), **keyword_only(node)}.items()
        if isinstance(default, ast.Constant) and isinstance(default.value, str)
    }
