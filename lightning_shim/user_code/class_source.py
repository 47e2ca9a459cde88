"""The source of one class: the definitions of its methods, and the classes that they call. Standard library only."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES
from lightning_shim.diagnostics.source_files import (
    FunctionNode,
    SourceFile,
    definition_of,
    first_line,
    source_file,
    under_wrappers,
)
from lightning_shim.upstream.namespaces import DEMONSTRATIONS

_OWN_SCOPE: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

_MIXIN_PACKAGES: Final = frozenset({"abc", "collections", "enum", "typing", "typing_extensions"})
"""Packages of Python's whose classes are mixed into modules, such as ``typing.Generic``."""


def is_users(module_name: str) -> bool:
    """Whether the code of a module counts as the user's, as that of all but a few packages does."""
    package = module_name.partition(".")[0]
    return not (package in FRAMEWORK_PACKAGES or package in _MIXIN_PACKAGES) or module_name.startswith(DEMONSTRATIONS)


@dataclass(frozen=True, slots=True)
class Method:
    """A function in a class."""

    name: str
    node: FunctionNode
    source: SourceFile  # the file of its definition
    module: str  # the name of the module that defines it

    @property
    def has_self(self) -> bool:
        """Whether its first argument is the instance."""
        decorators = [] if isinstance(self.node, ast.Lambda) else self.node.decorator_list
        return not any(isinstance(node, ast.Name) and node.id in ("staticmethod", "classmethod") for node in decorators)


class ClassSource:
    """The source of a class itself, without its bases.

    Attributes:
        methods: The functions in the class.
        is_complete: Whether the source of all of them was found.
        source: The file of its definition, or None if that was not found.
        node: Its definition, or None.
    """

    def __init__(self, cls: type) -> None:
        self._class: Final = cls
        self._functions: Final = [
            (name, function)
            for name, entry in vars(cls).items()
            for function in functions_in(entry)
            if is_users(function.__module__ or "")
        ]
        self.source, self.node = self._find()
        self.methods: Final = list(self._methods())
        located = {method.name for method in self.methods}
        self.is_complete: Final = self.node is not None or all(name in located for name, _ in self._functions)

    def _find(self) -> tuple[SourceFile | None, ast.ClassDef | None]:
        """Finds the class's definition by its name, around the line of one of its functions."""
        # The name alone may be that of several classes: in the branches of an `if`, or in a cell of a notebook that has
        # been run again. `__module__` alone may be wrong, since decorators and factories set it.
        name = self._class.__qualname__
        functions = [function for _, function in self._functions]
        own = [each.__code__ for each in functions if each.__qualname__ == f"{name}.{each.__code__.co_name}"]
        filenames = {code.co_filename: None for code in own}
        if not self._functions:
            module = sys.modules.get(self._class.__module__)
            filenames = dict.fromkeys(file for file in [getattr(module, "__file__", None)] if file is not None)
        for filename in filenames:
            source = source_file(filename)
            # Python keeps the last of several definitions.
            for node in reversed([] if source is None else source.classes(name)):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not own or any(code.co_firstlineno in lines for code in own if code.co_filename == filename):
                    return source, node
        return None, None

    def _methods(self) -> Iterator[Method]:
        nodes = set()
        if self.node is not None and self.source is not None:
            for statement in _statements(self.node.body):
                for name, node in _functions_of_statement(statement):
                    nodes.add(node)
                    yield Method(name, node, self.source, self._class.__module__)
        # Functions that were assigned to the class from outside, or put into it by a factory.
        for name, function in self._functions:
            source = source_file(function.__code__.co_filename)
            outside = None if source is None else source.function(function.__code__)
            if source is not None and outside is not None and outside not in nodes:
                nodes.add(outside)
                yield Method(name, outside, source, function.__module__ or "")

    @property
    def location(self) -> tuple[str, int]:
        """The file and line of the class, or of its first function, or only its file."""
        if self.source is not None and self.node is not None:
            return self.source.name, self.node.lineno
        if self._functions:
            return definition_of(self._functions[0][1].__code__)
        return getattr(sys.modules.get(self._class.__module__), "__file__", None) or f"<{self._class.__module__}>", 0

    def definition(self, name: str) -> tuple[str, int]:
        """Finds file and line of the ``def`` or the assignment of one of the class's own attributes."""
        codes = [function.__code__ for own_name, function in self._functions if own_name == name]
        if self.source is not None and self.node is not None:
            # If the class defines the name several times, the line of its code tells which definition Python kept.
            lines: list[int] = []
            for statement in _statements(self.node.body):
                if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and statement.name == name:
                    if any(code.co_firstlineno == first_line(statement) for code in codes):
                        return self.source.name, statement.lineno
                    lines.append(statement.lineno)
                elif name in _assigned_names(statement):
                    lines.append(statement.lineno)
            if lines:
                return self.source.name, lines[-1]
        return definition_of(codes[0]) if codes else self.location


def classes_called(method: Method) -> Iterator[tuple[type, int]]:
    """Yields the classes that a method calls by names of its module or of its own imports, with the lines.

    Neither the method nor anything that it names is called.
    """
    # Imports first: ast.walk goes level by level, and may reach a call before an import that is nested deeper.
    names = _names_of(method.module)
    for node in ast.walk(method.node):
        if isinstance(node, ast.ImportFrom):
            imported = _names_of(node.module or "")
            names.update({alias.asname or alias.name: imported.get(alias.name) for alias in node.names})
    for node in ast.walk(method.node):
        if isinstance(node, ast.Call):
            called = _named(node.func, names)
            if isinstance(called, type):
                yield called, node.lineno


def _names_of(module_name: str) -> dict[str, Any]:
    module = sys.modules.get(module_name)
    return {} if module is None else dict(vars(module))


def _named(node: ast.expr, names: dict[str, Any]) -> Any:
    """Returns the value of an expression such as ``callbacks.Timer``, or None if it is unknown."""
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=value, attr=name):
            owner = _named(value, names)
            # Only in the dictionaries of modules and classes: getattr may run code of the user's.
            return vars(owner).get(name) if isinstance(owner, (ModuleType, type)) else None
    return None


def functions_in(entry: Any) -> Iterator[Any]:
    """Yields the functions under the wrappers in an entry of a class's ``__dict__``; a property has up to three."""
    entries = [entry]
    if isinstance(entry, property):
        entries = [entry.fget, entry.fset, entry.fdel]
    elif isinstance(entry, (functools.partial, functools.partialmethod, functools.cached_property)):
        entries = [entry.func]
    yield from filter(None, map(under_wrappers, entries if not isinstance(entry, type) else []))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields the statements of a class's body, including those under ``if``, ``try`` and the like."""
    for statement in body:
        yield statement
        if not isinstance(statement, _OWN_SCOPE):
            for block in ast.iter_child_nodes(statement):
                if isinstance(block, ast.stmt):
                    yield from _statements([block])
                elif isinstance(block, ast.ExceptHandler):
                    yield from _statements(block.body)


def _functions_of_statement(statement: ast.stmt) -> Iterator[tuple[str, FunctionNode]]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield statement.name, statement
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Lambda):
        for name in _assigned_names(statement):
            yield name, statement.value


def _assigned_names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in statement.names}
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
