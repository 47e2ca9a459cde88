"""The user's own code in a class and its bases: the methods, their uses of Lightning's members, and their callers."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES
from lightning_shim.diagnostics.source_files import definition_of, source_file
from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import members
from lightning_shim.user_code.class_source import ClassSource, Method, classes_called, functions_in, is_users
from lightning_shim.user_code.member_uses import FunctionUses, Origin, Value, arguments_of, read_uses

_HOOK_ARGUMENTS: Final = {"trainer": "Trainer", "pl_module": "LightningModule"}
"""The classes of the arguments of a callback's hooks, by Lightning's names for them."""


_PATHS_OF_PYTHON: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_FOLDERS_OF_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
"""Wherever they are: a virtual environment may see packages of another one."""


def is_users_class(cls: type, packages: frozenset[str]) -> bool:
    """Whether a class is the user's own, whose objects are what is in their attributes; or a configuration's.

    Those of the given packages are the user's wherever they are installed.
    """
    package = cls.__module__.partition(".")[0]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    is_installed = (
        file is None or file.startswith(_PATHS_OF_PYTHON) or not _FOLDERS_OF_PACKAGES.isdisjoint(file.split(os.sep))
    )
    return package not in FRAMEWORK_PACKAGES and (package in {*packages, "__main__", "omegaconf"} or not is_installed)


@dataclass(frozen=True, slots=True)
class Place:
    """A line of source."""

    file: str  # the file, as in a traceback
    line: int  # the line, from 1
    module: str  # the name of the file's Python module


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A method of the user's, with its uses of members."""

    method: Method
    cls: type
    found: FunctionUses

    @property
    def name(self) -> str:
        """Its name in the class."""
        return self.method.name

    def place(self, line: int) -> Place:
        """Returns the place of one of its lines."""
        return Place(self.method.source.name, line, self.method.module)


class UserCode:
    """The user's code in a class and its bases, up to Lightning's.

    Args:
        subject: A class that derives from one of Lightning's, or an object of such a class.
        owner: The name of Lightning's class.
        base: Lightning's class.

    Attributes:
        cls: The class.
        functions: All methods.
        set_on_self: The first place, by name, where a method sets an attribute that the class does not have.
        unread: The names of the classes with at least one method that could not be read.
    """

    def __init__(self, subject: Any, owner: str, base: type) -> None:
        is_class = isinstance(subject, type)
        self.cls: Final[type] = subject if is_class else type(subject)
        self._order: Final = {cls: position for position, cls in enumerate(self.cls.__mro__)}
        self._owner: Final = owner
        self._base: Final = base
        self._instance: Final[dict[str, Any]] = {} if is_class else vars(subject)
        self._rows: Final = {row.name: row for row in members(owner)}
        self._sources: Final = {
            cls: ClassSource(cls) for cls in self.cls.__mro__ if cls not in base.__mro__ and is_users(cls.__module__)
        }
        self.functions: Final[list[Function]] = []
        unread = {cls: None for cls, source in self._sources.items() if not source.is_complete}
        for cls, source in self._sources.items():
            for method in source.methods:
                try:
                    found = read_uses(method.node, owner, self._arguments(method), self._is_in_a_class)
                except RecursionError:
                    # Code may be nested a little deeper than a visitor can follow, and still compile.
                    unread[cls] = None
                else:
                    self.functions.append(Function(method, cls, found))
        self.unread: Final = tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in unread)
        self._by_name: Final[dict[str, list[Function]]] = {}
        for function in self.functions:
            self._by_name.setdefault(function.name, []).append(function)
        self.set_on_self: Final[dict[str, Place]] = {}
        for function in self.functions:
            for use in function.found.uses:
                if use.is_stored and use.value == Value(owner, Origin.SELF):
                    self.set_on_self.setdefault(use.name, function.place(use.line))

    def _arguments(self, method: Method) -> dict[str, Value]:
        """Returns the known values of a method's arguments."""
        arguments = arguments_of(method.node)
        if not method.has_self or not arguments:
            return {}
        known = {arguments[0]: Value(self._owner, Origin.SELF)}
        if self._owner == "Callback":
            hook = getattr(self._base, method.name, None) if method.name in self._rows else None
            of_hook = list(inspect.signature(hook).parameters) if callable(hook) else []
            # In a hook by position, whatever the user calls the arguments; in any other method by Lightning's names.
            for own, name in [*zip(arguments, of_hook, strict=False), *zip(arguments, arguments, strict=True)]:
                if name in _HOOK_ARGUMENTS:
                    known.setdefault(own, Value(_HOOK_ARGUMENTS[name], Origin.OTHER))
        return known

    # Definitions.

    def _definer(self, name: str, after: type | None = None) -> type | None:
        """Returns the class that defines a member; with ``after``, the one that ``super()`` in that class finds."""
        start = 0 if after is None else self._order[after] + 1
        return next((cls for cls in self.cls.__mro__[start:] if name in vars(cls)), None)

    def _is_in_a_class(self, name: str, after: type | None = None) -> bool:
        return self._definer(name, after) in self._sources

    def defines(self, name: str, after: type | None = None) -> bool:
        """Whether a member of the object is the user's own; with ``after``, as ``super()`` in that class finds it."""
        if self._is_in_a_class(name, after):
            return True
        row = self._rows.get(name)
        is_lightnings = row is not None and not row.is_removed and row.kind in (Kind.PROPERTY, Kind.ATTRIBUTE)
        if after is not None or is_lightnings:
            # An assignment to such a name goes through Lightning's own setter, and defines nothing new.
            return False
        registered = (self._instance.get(kind, {}) for kind in ("_modules", "_parameters", "_buffers"))
        return name in self.set_on_self or name in self._instance or any(name in names for names in registered)

    def sets_somewhere(self, name: str) -> bool:
        """Whether the user's code sets an attribute of a given name on any object.

        It is looked for in the files of the class and its bases, and in all imported modules of their packages and
        folders, since one module may set an attribute of the trainer that another reads.
        """
        files = files_around({function.method.source.name for function in self.functions}, self._sources)
        # Only files whose text has the name are parsed, which takes longer than looking.
        sources = (source_file(file) for file in files if name in "".join(linecache.getlines(file)))
        return any(source is not None and name in source.stored_attributes for source in sources)

    def sets_later(self, name: str) -> bool:
        """Whether a method other than the constructor sets an attribute of a given name."""
        methods = (function for function in self.functions if function.name != "__init__")
        return any(use.is_stored and use.name == name for method in methods for use in method.found.uses)

    def definition(self, name: str) -> Place | None:
        """Finds the ``def`` or the assignment of an overridden member."""
        if name in self._instance:
            if name in self.set_on_self:
                return self.set_on_self[name]
            functions = functions_in(self._instance[name])
            return next((Place(*definition_of(each.__code__), self.cls.__module__) for each in functions), self.place)
        definer = self._definer(name)
        if definer is None or definer not in self._sources:
            return None
        return Place(*self._sources[definer].definition(name), definer.__module__)

    @property
    def place(self) -> Place:
        """The place of the class."""
        source = self._sources.get(self.cls) or ClassSource(self.cls)
        return Place(*source.location, self.cls.__module__)

    # The methods that a trial reaches.

    def made_by(self, name: str) -> Iterator[tuple[type, Place]]:
        """Yields the classes that a method calls, itself or through other methods of the class, with the places."""
        start = {function for function in self._by_name.get(name, []) if not self.is_hidden(function)}
        for function in _all_from(start, self._called_by):
            for cls, line in classes_called(function.method):
                yield cls, function.place(line)

    def is_hidden(self, function: Function) -> bool:
        """Whether a subclass overrides the method."""
        return self._definer(function.name) not in (function.cls, None)

    def reached(self) -> set[Function]:
        """Returns the methods that a trial may call: all but those that only never-called hooks lead to."""
        leads_to = {function: set(self._called_by(function)) for function in self.functions}
        called = {target for function, targets in leads_to.items() for target in targets - {function}}
        entered = {function for function in self.functions if self._is_entered(function, function in called)}
        return _all_from(entered, leads_to.__getitem__)

    def _is_entered(self, function: Function, is_called_by_another: bool) -> bool:
        """Whether a method may be called from outside the class."""
        # A method that no other one calls must be called from elsewhere, or not at all. To be safe it counts.
        row = self._rows.get(function.name)
        is_never_called = row is not None and row.kind is Kind.HOOK and row.support is Support.IGNORED
        if self.is_hidden(function) or is_never_called:
            return False
        return row is not None or function.name.startswith("__") or not is_called_by_another

    def _called_by(self, function: Function) -> Iterator[Function]:
        for origin, name in function.found.mentions:
            named = self._by_name.get(name, [])
            if origin is not Origin.OTHER:
                definer = self._definer(name, function.cls if origin is Origin.SUPER else None)
                named = [target for target in named if target.cls is definer]
            yield from named


def _all_from(start: set[Function], called_by: Callable[[Function], Iterable[Function]]) -> set[Function]:
    """Returns methods with all that they call, themselves or through others."""
    reached: set[Function] = set()
    while start:
        reached |= start
        start = {target for function in start for target in called_by(function)} - reached
    return reached


def files_around(files: Iterable[str], classes: Iterable[type]) -> set[str]:
    """Returns files and those of all imported modules in their folders and in the packages of classes."""
    found = set(files)
    folders = {os.path.dirname(file) for file in found if os.path.isabs(file)}
    packages = {cls.__module__.partition(".")[0] for cls in classes} - {"__main__"}
    for module in list(sys.modules.values()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if file is not None and (os.path.dirname(file) in folders or module.__name__.partition(".")[0] in packages):
            found.add(file)
    return found
