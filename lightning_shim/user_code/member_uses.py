"""The uses of Lightning's members in a function, found in its syntax tree. Standard library only.

An object is followed as far as that is possible without running anything: through ``self.trainer.X``, local names, and
the arguments of a callback's hooks. Of any other object nothing is reported, so that no finding is wrong.
"""

from __future__ import annotations

import ast
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lightning_shim.diagnostics.source_files import FunctionNode
from lightning_shim.members.trainer_parts import TRAINER_PARTS


class Origin(enum.Enum):
    """The way in which a function gets an object."""

    SELF = "self"  # its own instance, or a way back to it such as trainer.lightning_module
    SUPER = "super()"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Value:
    """The known value of an expression."""

    owner: str  # the class that it is an instance of, one of the table's `OWNERS`, or a path of `TRAINER_PARTS`
    origin: Origin  # the way in which the function gets it
    is_list: bool = False  # whether it is a list of such instances


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a member."""

    value: Value  # the object that has the member
    name: str
    line: int  # the line of the name
    is_stored: bool  # whether it is set; otherwise it is read or called
    is_guarded: bool  # whether the code continues if there is no such member


@dataclass(frozen=True, slots=True)
class FunctionUses:
    """The uses of members in a function."""

    uses: tuple[Use, ...]
    # The names of all attributes that it reads or calls, each with the origin of its object.
    mentions: frozenset[tuple[Origin, str]]


_LEADS_TO: Final = {
    ("LightningModule", "trainer"): "Trainer",
    ("LightningModule", "_trainer"): "Trainer",
    ("LightningModule", "logger"): "Logger",
    ("LightningDataModule", "trainer"): "Trainer",
    ("Trainer", "logger"): "Logger",
    ("Trainer", "lightning_module"): "LightningModule",
    ("Trainer", "model"): "LightningModule",
    ("Trainer", "datamodule"): "LightningDataModule",
}
"""The class that an attribute is an instance of, by the owner and the name of the attribute."""

_LEADS_TO_LIST: Final = {("LightningModule", "loggers"): "Logger", ("Trainer", "loggers"): "Logger"}
"""The same for lists of instances."""

_CATCHES: Final = frozenset(
    {"AttributeError", "Exception", "BaseException", "LightningShimError", "RefusedMemberError"}
)
"""The errors whose handlers catch the error that a missing member raises."""

Names = Mapping[str, Value]


def read_uses(node: FunctionNode, owner: str, names: Names, is_users: Callable[[str], bool]) -> FunctionUses:
    """Finds the uses of members in a method, whose arguments have the known values ``names``.

    ``is_users`` says whether an attribute of ``self`` is the user's own rather than Lightning's.
    """
    reader = _Reader(owner, names, is_users)
    reader.read(node)
    return FunctionUses(tuple(reader.guarded_uses()), frozenset(reader.mentions))


class _Reader(ast.NodeVisitor):
    """Reads statements in their order, so that a name has the value that was assigned to it last."""

    def __init__(self, owner: str, names: Names, is_users: Callable[[str], bool]) -> None:
        self.mentions: set[tuple[Origin, str]] = set()
        self._owner: Final = owner
        self._names: dict[str, Value] = dict(names)
        self._is_users: Final = is_users
        self._uses: list[tuple[Use, ast.expr]] = []
        # A member that hasattr asks for anywhere in the function counts as guarded everywhere in it, and so does an
        # expression that isinstance checks: which branch is taken is not followed.
        self._asked_for: set[tuple[str, str]] = set()
        self._checked: set[str] = set()
        self._handlers = 0

    def read(self, node: FunctionNode) -> None:
        for statement in [node.body] if isinstance(node, ast.Lambda) else node.body:
            self.visit(statement)

    def guarded_uses(self) -> Iterator[Use]:
        for use, inner in self._uses:
            is_asked_for = (use.value.owner, use.name) in self._asked_for
            is_checked = bool(self._checked) and ast.unparse(inner) in self._checked
            yield replace(use, is_guarded=use.is_guarded or is_asked_for or is_checked)

    # Values of expressions.

    def _value(self, node: ast.AST | None) -> Value | None:
        match node:
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.Attribute(value=inner, attr=name):
                return self._member(self._value(inner), name)
            case ast.Subscript(value=inner, slice=index) if not isinstance(index, ast.Slice):
                return self._element(self._value(inner))
            case ast.NamedExpr(value=inner) | ast.Await(value=inner):
                return self._value(inner)
            # Of two alternatives one is mostly None, so the other one is the value.
            case ast.IfExp(body=first, orelse=second):
                return self._value(first) or self._value(second)
            case ast.BoolOp(values=values):
                return next(filter(None, map(self._value, values)), None)
            case ast.Call(func=ast.Name(id="getattr"), args=[inner, ast.Constant(value=str(name)), *_]):
                return self._member(self._value(inner), name)
            case ast.Call(func=ast.Name(id="cast") | ast.Attribute(attr="cast"), args=[_, inner]):
                return self._value(inner)
            case ast.Call(func=ast.Name(id="super")):
                return Value(self._owner, Origin.SUPER)
            case _:
                return None

    def _member(self, value: Value | None, name: str) -> Value | None:
        if value is None or value.is_list or (value.origin is Origin.SELF and self._is_users(name)):
            return None
        key = (value.owner, name)
        path = f"{value.owner}.{name}"
        owner = _LEADS_TO.get(key) or _LEADS_TO_LIST.get(key) or (path if path in TRAINER_PARTS else None)
        if owner is None:
            return None
        return Value(owner, Origin.SELF if owner == self._owner else Origin.OTHER, key in _LEADS_TO_LIST)

    @staticmethod
    def _element(value: Value | None) -> Value | None:
        return replace(value, is_list=False) if value is not None and value.is_list else None

    # Uses.

    def visit_Attribute(self, node: ast.Attribute) -> None:
        # The last line is that of the name itself: a chain of calls may have a member on each of its lines.
        self._use(node.value, node.attr, node.end_lineno, is_stored=isinstance(node.ctx, ast.Store))

    def _use(
        self, inner: ast.expr, name: str, line: int | None, *, is_stored: bool = False, is_guarded: bool = False
    ) -> None:
        value = self._value(inner)
        if not is_stored:
            self.mentions.add((Origin.OTHER if value is None else value.origin, name))
        if value is None:
            self.visit(inner)
            return
        self._pass_through(inner)
        if not value.is_list:
            assert line is not None
            use = Use(value, name, line, is_stored, is_guarded or self._handlers > 0)
            self._uses.append((use, inner))

    def _pass_through(self, node: ast.expr) -> None:
        """Visits the expression before a member: ``self.trainer.max_epochs`` is a use of ``max_epochs`` alone."""
        if isinstance(node, ast.Attribute):
            self.mentions.add((Origin.SELF, node.attr))
            self._pass_through(node.value)
        elif not isinstance(node, ast.Name):
            for child in ast.iter_child_nodes(node):
                self.visit(child)
            self._bind_walrus(node)

    def visit_Call(self, node: ast.Call) -> None:
        arguments = list(node.args)
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[inner, ast.Constant(value=str(name)), *default]):
                self._use(inner, name, inner.end_lineno, is_guarded=bool(default))
                arguments = default
            case ast.Call(func=ast.Name(id="setattr"), args=[inner, ast.Constant(value=str(name)), new]):
                self._use(inner, name, inner.end_lineno, is_stored=True)
                arguments = [new]
            case ast.Call(func=ast.Name(id="hasattr"), args=[inner, ast.Constant(value=str(name))]):
                if (value := self._value(inner)) is not None:
                    self._asked_for.add((value.owner, name))
            case ast.Call(func=ast.Name(id="isinstance"), args=[inner, _]):
                value = self._value(inner)
                # A check of the trainer or the logger tells a trial's stand-in from Lightning's own. One of the module
                # says nothing about its members.
                if value is not None and value.owner in ("Trainer", "Logger"):
                    self._checked.add(ast.unparse(inner))
            case ast.Call(func=ast.Attribute(value=inner, attr=name, end_lineno=line)):
                self._use(inner, name, line)
            case _:
                self.visit(node.func)
        for argument in (*arguments, *node.keywords):
            self.visit(argument)

    def visit_Try(self, node: ast.Try) -> None:
        self._visit_guarded(node.body, any(_catches(handler.type) for handler in node.handlers))
        for part in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(part)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self._bind(item.optional_vars, None)
        managers = [item.context_expr for item in node.items]
        # contextlib.suppress(AttributeError), pytest.raises(...), and the like.
        is_guarded = any(isinstance(call, ast.Call) and any(map(_catches, call.args)) for call in managers)
        self._visit_guarded(node.body, is_guarded)

    visit_AsyncWith = visit_With

    def _visit_guarded(self, body: list[ast.stmt], is_guarded: bool) -> None:
        self._handlers += is_guarded
        for statement in body:
            self.visit(statement)
        self._handlers -= is_guarded

    # Names.

    def _bind(self, target: ast.expr, value: Value | None) -> None:
        if isinstance(target, ast.Name):
            if value is None:
                self._names.pop(target.id, None)
            else:
                self._names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._bind(element, None)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, None)
        else:
            self.visit(target)

    def _bind_walrus(self, node: ast.AST) -> None:
        if isinstance(node, ast.NamedExpr):
            self._bind(node.target, self._value(node.value))

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            match target, node.value:
                case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                    # A list, since Python evaluates all values before it binds the first name.
                    for each, value in list(zip(targets, map(self._value, values), strict=True)):
                        self._bind(each, value)
                case _:
                    self._bind(target, self._value(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._bind(node.target, self._value(node.value))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind_walrus(node)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._bind(node.target, self._element(self._value(node.iter)))
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    visit_AsyncFor = visit_For

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        outer = dict(self._names)
        for generator in node.generators:
            self.visit(generator.iter)
            self._bind(generator.target, self._element(self._value(generator.iter)))
            for condition in generator.ifs:
                self.visit(condition)
        for element in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            self.visit(element)
        self._names = outer

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension

    def visit_FunctionDef(self, node: FunctionNode) -> None:
        # An inner function sees the method's names, but for those that its own parameters hide.
        outer = dict(self._names)
        for argument in arguments_of(node):
            self._names.pop(argument, None)
        self.read(node)
        self._names = outer

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef


def arguments_of(node: FunctionNode) -> list[str]:
    """Returns the names of a function's parameters, the positional ones first and in their order."""
    specification = node.args
    named = [*specification.posonlyargs, *specification.args, *specification.kwonlyargs]
    return [argument.arg for argument in (*named, specification.vararg, specification.kwarg) if argument is not None]


def _catches(error: ast.expr | None) -> bool:
    """Whether the type in an ``except`` catches the error that a missing member raises."""
    match error:
        case None:
            return True
        case ast.Tuple(elts=errors):
            return any(map(_catches, errors))
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _CATCHES
        case _:
            return False
