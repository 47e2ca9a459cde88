"""The user's source files as syntax trees, indexed by function and class. Standard library only."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from types import CodeType
from typing import Any, Final

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_LAMBDA: Final = "<lambda>"


class SourceFile:
    """The syntax tree of a file, or of a notebook's cell, by its name in ``co_filename``."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name: Final = name
        self._tree: Final = tree
        self._functions: Final[dict[tuple[int, str], list[FunctionNode]]] = {}
        self._classes: Final[dict[str, list[ast.ClassDef]]] = {}
        self._index(tree)

    def _index(self, tree: ast.Module) -> None:
        # Iterative, since the tree of a sum with thousands of terms is deeper than Python's recursion limit. The
        # children go onto the stack in reverse, so that classes of the same name are found in the order of the source.
        nodes: list[tuple[ast.AST, str]] = [(tree, "")]
        while nodes:
            node, prefix = nodes.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self._functions.setdefault((first_line(node), node.name), []).append(node)
                prefix = f"{prefix}{node.name}.<locals>."
            elif isinstance(node, ast.Lambda):
                self._functions.setdefault((node.lineno, _LAMBDA), []).append(node)
            elif isinstance(node, ast.ClassDef):
                self._classes.setdefault(f"{prefix}{node.name}", []).append(node)
                prefix = f"{prefix}{node.name}."
            nodes += [(child, prefix) for child in reversed(list(ast.iter_child_nodes(node)))]

    def function(self, code: CodeType) -> FunctionNode | None:
        """Returns the definition that a code object was compiled from, or None if it is ambiguous."""
        # Two lambdas on one line have the same name and first line.
        found = self._functions.get((code.co_firstlineno, code.co_name), [])
        return found[0] if len(found) == 1 else None

    def classes(self, qualified_name: str) -> list[ast.ClassDef]:
        """Returns the definitions of a class by its qualified name, such as one in each branch of an ``if``."""
        return self._classes.get(qualified_name, [])

    @functools.cached_property
    def stored_attributes(self) -> frozenset[str]:
        """The names of all attributes that the file assigns, on any object."""
        names = set()
        for node in ast.walk(self._tree):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    names.add(name)
                case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value=str(name)), _]):
                    names.add(name)
        return frozenset(names)


@functools.lru_cache(maxsize=32)
def _parsed(name: str, source: str) -> SourceFile | None:
    try:
        return SourceFile(name, ast.parse(source))
    except SyntaxError:
        return None


def source_file(name: str) -> SourceFile | None:
    """Reads a file by its name, as in ``co_filename``; None if it cannot be found or parsed."""
    # linecache also knows the cells of notebooks and the modules in zip files.
    source = "".join(linecache.getlines(name))
    return _parsed(name, source) if source else None


def definition_of(code: CodeType) -> tuple[str, int]:
    """Returns the file and line of a function's ``def``; ``co_firstlineno`` is the line of its first decorator."""
    source = source_file(code.co_filename)
    node = None if source is None else source.function(code)
    return code.co_filename, code.co_firstlineno if node is None else node.lineno


def under_wrappers(function: Any) -> Any:
    """Returns the function under all its wrappers, or None if it is not written in Python."""
    found = inspect.unwrap(getattr(function, "__func__", function))
    return found if hasattr(found, "__code__") else None


def first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns the line of a function's first decorator, or of its ``def``: the ``co_firstlineno`` of its code."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
