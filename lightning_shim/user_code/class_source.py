"""The source of one class: the definitions of its methods, and the classes that they call. Standard library only."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, Final

from lightning_shim.diagnostics.source_files import FunctionNode, SourceFile, SourceFiles, code_of, first_line

_OWN_SCOPE: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


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

    Args:
        cls: The class.
        files: The cache of source files.
        is_users: Returns whether a function is the user's own, given the name of its module.

    Attributes:
        methods: The functions in the class.
        is_complete: Whether the source of all of them was found.
        source: The file of its definition, or None if that was not found.
        node: Its definition, or None.
    """

    def __init__(self, cls: type, files: SourceFiles, is_users: Callable[[str], bool]) -> None:
        self._class: Final = cls
        self._files: Final = files
        self._functions: Final = [
            (name, function, code)
            for name, entry in vars(cls).items()
            for function in functions_in(entry)
            if (code := code_of(function)) is not None and is_users(_module_of(function))
        ]
        self.source, self.node = self._find()
        self.methods: Final = list(self._methods())
        located = {method.name for method in self.methods}
        self.is_complete: Final = self.node is not None or all(name in located for name, _, _ in self._functions)

    def _find(self) -> tuple[SourceFile | None, ast.ClassDef | None]:
        """Finds the class's definition by its name, around the line of one of its functions."""
        # The name alone may be that of several classes: in the branches of an `if`, or in a cell of a notebook that has
        # been run again. `__module__` alone may be wrong, since decorators and factories set it.
        name = self._class.__qualname__
        own = [code for _, function, code in self._functions if _qualified_name(function) == f"{name}.{code.co_name}"]
        filenames = {code.co_filename: None for code in own}
        if not self._functions:
            module = sys.modules.get(self._class.__module__)
            filenames = dict.fromkeys(file for file in [getattr(module, "__file__", None)] if file is not None)
        for filename in filenames:
            source = self._files.file(filename)
            # Python keeps the last of several definitions.
            for node in reversed([] if source is None else source.classes(name)):
                if not own or any(_contains(node, code) for code in own if code.co_filename == filename):
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
        for name, function, code in self._functions:
            source = self._files.file(code.co_filename)
            outside = None if source is None else source.function(code)
            if source is not None and outside is not None and outside not in nodes:
                nodes.add(outside)
                yield Method(name, outside, source, _module_of(function))

    @property
    def location(self) -> tuple[str, int]:
        """The file and line of the class, or of its first function, or only its file."""
        if self.source is not None and self.node is not None:
            return self.source.name, self.node.lineno
        if self._functions:
            return self._files.definition(self._functions[0][2])
        return getattr(sys.modules.get(self._class.__module__), "__file__", None) or f"<{self._class.__module__}>", 0

    def definition(self, name: str) -> tuple[str, int]:
        """Finds file and line of the ``def`` or the assignment of one of the class's own attributes."""
        codes = [code for own_name, _, code in self._functions if own_name == name]
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
        return self._files.definition(codes[0]) if codes else self.location


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
    """Yields the functions in an entry of a class's ``__dict__``; a property has up to three."""
    if isinstance(entry, property):
        yield from (function for function in (entry.fget, entry.fset, entry.fdel) if function is not None)
    elif isinstance(entry, (functools.partial, functools.partialmethod, functools.cached_property)):
        yield entry.func
    elif not isinstance(entry, type):
        yield entry


def _module_of(function: Any) -> str:
    return str(getattr(inspect.unwrap(getattr(function, "__func__", function)), "__module__", None) or "")


def _qualified_name(function: Any) -> str:
    return str(getattr(inspect.unwrap(getattr(function, "__func__", function)), "__qualname__", ""))


def _contains(node: ast.ClassDef, code: CodeType) -> bool:
    return node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno)


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
