"""The names of attributes that the compiled code of a class reads and writes.

Bytecode is there even for a class without source, and is quicker to go through than a syntax tree.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Final

from lightning_shim.members.member import Member
from lightning_shim.user_code.class_source import functions_in

# Python 3.12 has dropped LOAD_METHOD and added LOAD_SUPER_ATTR.
_READS: Final = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")


@dataclass(frozen=True, slots=True)
class NamesInCode:
    """The names of attributes in the code of a class."""

    read: frozenset[str]  # the names that are read or called
    written: frozenset[str]  # the names that are set, and all string constants, which `setattr` may set

    @staticmethod
    def union(parts: Iterable[NamesInCode]) -> NamesInCode:
        """Returns the names in any of several pieces of code."""
        parts = list(parts)
        return NamesInCode(
            frozenset().union(*(part.read for part in parts)), frozenset().union(*(part.written for part in parts))
        )


@functools.lru_cache
def names_in_code(user_class: type, without: str = "") -> NamesInCode:
    """Finds the names of attributes in the methods of a class and of the user's bases of it."""
    return NamesInCode.union(
        _names_in(function.__code__)
        for base in user_class.__mro__
        if not _is_library(base)
        for name, entry in vars(base).items()
        if name != without
        for function in functions_in(entry)
    )


# Cached for the code objects too, since `is_own_method` asks about a class once for each removed hook.
@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> NamesInCode:
    read: set[str] = set()
    written: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in _READS:
            read.add(instruction.argval)
        elif instruction.opname == "STORE_ATTR":
            written.add(instruction.argval)
    written.update(constant for constant in code.co_consts if isinstance(constant, str))
    inner = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return NamesInCode.union([NamesInCode(frozenset(read), frozenset(written)), *inner])


_JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))


def may_read_earlier_value(name: str, classes: Iterable[type]) -> bool:
    """Whether code of the user's may read an attribute as it was left earlier, rather than after setting it anew.

    The code is that of the classes, of their bases, and of the modules that define them. A constructor does not count:
    it has run before.
    """
    bases = {base for cls in classes for base in cls.__mro__ if not _is_library(base)}
    for module in filter(None, map(sys.modules.get, {base.__module__ for base in bases})):
        entries = [entry for entry in vars(module).values() if getattr(entry, "__module__", None) == module.__name__]
        bases.update(entry for entry in entries if isinstance(entry, type))
        functions = filter(inspect.isfunction, entries)
        if any(_reads_first(name, inspect.unwrap(function).__code__) for function in functions):
            return True
    codes = (
        (own_name, function.__code__)
        for base in bases
        for own_name, entry in vars(base).items()
        for function in functions_in(entry)
    )
    return any(
        any(_reads_first(name, inner) for inner in _inner(code)) if own_name == "__init__" else _reads_first(name, code)
        for own_name, code in codes
    )


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def _reads_first(name: str, code: CodeType) -> bool:
    """Whether a function may read an attribute before it sets it; a string of that name may be one for ``getattr``."""
    if name in code.co_consts or any(_reads_first(name, inner) for inner in _inner(code)):
        return True
    if name not in code.co_names:
        return False
    for instruction in dis.get_instructions(code):
        if instruction.argval == name and instruction.opname in _READS:
            return True
        if instruction.argval == name and instruction.opname == "STORE_ATTR":
            # Nothing has jumped over it, so it is always set before what follows.
            return False
        if instruction.opcode in _JUMPS:
            return name in _names_in(code).read
    return False


def _is_library(base: type) -> bool:
    """Whether a class is PyTorch's or Lightning's; Lightning's demonstrations count as the user's."""
    package, _, rest = base.__module__.partition(".")
    return package in ("torch", "builtins", "lightning_fabric") or (
        package in ("lightning", "pytorch_lightning") and "demos" not in rest
    )


def is_own_method(row: Member, *owners: type) -> bool:
    """Whether a method only has the name of a removed hook, and is called by the user's own classes.

    A hook of Lightning 2 never is such a method.
    """
    # A method of the same name that calls super() does not count as a caller.
    return row.is_removed and any(row.name in names_in_code(owner, without=row.name).read for owner in owners)
