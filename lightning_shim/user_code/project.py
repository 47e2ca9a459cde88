"""A script and the files that it imports, with the classes that their names refer to. Standard library only.

Nothing is imported: that would start the training, and might need packages which only the cluster has.
"""

from __future__ import annotations

import ast
import functools
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES
from lightning_shim.upstream.namespaces import DEMONSTRATIONS, NAMESPACES

_LIGHTNING: Final = frozenset(namespace.partition(".")[0] for namespace in NAMESPACES)

_OF_INTEREST: Final = frozenset(
    {"LightningModule", "LightningDataModule", "LightningCLI", "Trainer", "ModelCheckpoint", "EarlyStopping"}
)


class SourceError(Exception):
    """The user's source lacks what is needed; the message says where, and what to do."""


class NotLiteralError(Exception):
    """The value of an expression cannot be read from the source."""


@dataclass(frozen=True, slots=True)
class Import:
    """The origin of an imported name."""

    module: str  # the module's full name
    name: str  # the name in that module; empty for the module itself


@dataclass(frozen=True, slots=True)
class Outside:
    """A class, function or module that the project does not define."""

    name: str  # its full name, such as `pytorch_lightning.Trainer`

    @property
    def lightnings(self) -> str | None:
        """The name of a class or function of Lightning's without its module, or None for anything else."""
        root, _, rest = self.name.partition(".")
        return rest.rpartition(".")[2] if root in _LIGHTNING else None


class Assignments:
    """The expressions that are assigned to names in a part of a source.

    Attributes:
        values: The expressions by name.
        stores: How often each name gets a value, from a loop, as an argument, or by ``+=`` as well.
    """

    def __init__(self, tree: ast.AST) -> None:
        self.values: Final[dict[str, list[ast.expr]]] = {}
        self.stores: Final[Counter[str]] = Counter()
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._keep(target, value)
                case ast.AnnAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value) if value:
                    self._keep(target, value)
                case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                    self.stores[name] += 1

    def _keep(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Name(id=name), _:
                self.values.setdefault(name, []).append(value)
            case (ast.Tuple(elts=targets), ast.Tuple(elts=values)) if len(targets) == len(values):
                for each, its_value in zip(targets, values, strict=True):
                    self._keep(each, its_value)

    def only(self, name: str) -> ast.expr | None:
        """Returns the one expression that a name gets its value from; None if there are none, or others."""
        values = self.values.get(name, [])
        return values[0] if len(values) == self.stores[name] == 1 else None


class SourceModule:
    """A source file.

    Attributes:
        path: The file.
        name: The module's full name.
        tree: Its syntax tree.
        bindings: The definition of each name, in whatever scope.
        stars: The modules from which it imports ``*``.

    Raises:
        SourceError: If it cannot be read.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path: Final = path
        self.name: Final = name
        try:
            with tokenize.open(path) as file:
                self.tree: Final = ast.parse(file.read())
        except SyntaxError as error:
            place = f"{shown(path)}:{error.lineno or 1}"
            raise SourceError(f"{place}: {error.msg}. Correct the line: Python cannot read the file either.") from error
        except (OSError, ValueError, RecursionError) as error:
            raise SourceError(f"{shown(path)} cannot be read: {error}") from error
        self.bindings: Final[dict[str, ast.ClassDef | Import | ast.expr]] = {}
        self.stars: Final[list[str]] = []
        # The names of all scopes together: scripts import and define things inside functions, and seldom use a name for
        # two of them.
        for node in ast.walk(self.tree):
            self._bind(node)

    def _bind(self, node: ast.AST) -> None:
        # The first definition counts: further ones are mostly substitutes for a package that is not installed.
        match node:
            case ast.ClassDef(name=name):
                self.bindings.setdefault(name, node)
            case ast.Import(names=aliases):
                for alias in aliases:
                    root = alias.name.partition(".")[0]
                    self.bindings.setdefault(alias.asname or root, Import(alias.name if alias.asname else root, ""))
            case ast.ImportFrom(names=aliases):
                base = self.absolute(node)
                for alias in aliases:
                    if alias.name == "*":
                        self.stars.append(base)
                    else:
                        self.bindings.setdefault(alias.asname or alias.name, Import(base, alias.name))
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.bindings.setdefault(name, value)

    @functools.cached_property
    def has_guard(self) -> bool:
        """Whether it has an ``if __name__ == "__main__"``, without which its import would run what it does."""
        return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in self.tree.body)

    def absolute(self, node: ast.ImportFrom) -> str:
        """Returns the full name of the module that a statement imports from."""
        if not node.level:
            return node.module or ""
        package = self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]
        parts = package.split(".")
        parts = parts[: len(parts) - node.level + 1]
        return ".".join([*parts, *filter(None, [node.module])])

    def place(self, node: ast.AST) -> str:
        """Returns ``"file:line"`` of a node."""
        return f"{shown(self.path)}:{getattr(node, 'lineno', 1)}"

    @functools.cached_property
    def assignments(self) -> Assignments:
        """The expressions that are assigned to names, in whatever scope."""
        return Assignments(self.tree)

    @functools.cached_property
    def _command_line(self) -> dict[str, ast.expr]:
        """The defaults of the script's command line, by the attribute of argparse's namespace."""
        defaults: dict[str, ast.expr] = {}
        for node in ast.walk(self.tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="add_argument"), args=flags, keywords=keywords):
                    given = {keyword.arg: keyword.value for keyword in keywords}
                    names = [flag.value for flag in flags if isinstance(flag, ast.Constant)]
                    long = [name for name in names if isinstance(name, str) and name.startswith("--")]
                    match given.get("dest"), given.get("action"), given.get("default"), long:
                        case [_, ast.Constant(value="store_true"), None, [name, *_]]:
                            absent = ast.copy_location(ast.Constant(value=False), node)
                            defaults[name.lstrip("-").replace("-", "_")] = absent
                        case [None, _, ast.expr() as default, [name, *_]]:
                            defaults[name.lstrip("-").replace("-", "_")] = default
        return defaults

    def origin(self, node: ast.expr) -> ast.expr:
        """Returns the expression that a name, or an attribute such as ``args.lr``, gets its value from."""
        match node:
            case ast.Name(id=name):
                return self.assignments.only(name) or node
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner != "self" and name in self._command_line:
                return self._command_line[name]
        return node

    def literal(self, node: ast.expr) -> Any:
        """Evaluates a literal, a name for one, or an argument of the command line that has a default.

        Raises NotLiteralError if the source does not tell the value.
        """
        try:
            return ast.literal_eval(self.origin(node))
        # The last two are raised if the expression is nested too deeply.
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise NotLiteralError from error


@dataclass(frozen=True, slots=True, eq=False)
class ClassDefinition:
    """A class with its source."""

    module: SourceModule
    node: ast.ClassDef

    @property
    def name(self) -> str:
        """The class's own name."""
        return self.node.name

    @property
    def place(self) -> str:
        """``"file:line"``."""
        return self.module.place(self.node)


Resolved = ClassDefinition | Outside | None
Ancestry = list[ClassDefinition | Outside]
"""A class and its bases, in the order in which methods are looked up."""


class Project:
    """A script and the files that it imports; SourceError is raised if the script cannot be read."""

    def __init__(self, script: Path) -> None:
        self._folder: Final = script.resolve().parent
        self._modules: Final[dict[Path, SourceModule]] = {}
        self._classes: Final[dict[ast.ClassDef, ClassDefinition]] = {}
        self.script: Final = self._module(script.resolve(), script.stem)

    def _module(self, path: Path, name: str) -> SourceModule:
        if path not in self._modules:
            self._modules[path] = SourceModule(path, name)
        return self._modules[path]

    def _locate(self, name: str) -> Path | None:
        """Returns a module's file as Python would find it: in the script's folder first."""
        parts = name.split(".")
        if not name or parts[0] in sys.stdlib_module_names:
            return None
        for root in (self._folder, *map(Path, sys.path)):
            place = root.joinpath(*parts)
            for file in (place / "__init__.py", place.parent / f"{place.name}.py"):
                if file.is_file():
                    return file.resolve()
        return None

    def _find(self, name: str) -> SourceModule | None:
        """Reads a module; None if it has no source, or is another package's that this Python cannot parse."""
        path = self._locate(name)
        if path is None:
            return None
        try:
            return self._module(path, name)
        except SourceError:
            if self._is_own(path):
                raise
            return None

    def _is_own(self, path: Path) -> bool:
        """Whether a file is in the script's folder, which is sent to the cluster."""
        return path.is_relative_to(self._folder) and "site-packages" not in path.parts

    def files(self) -> list[SourceModule]:
        """Returns the script and the files beside and below it that it imports, nearest first."""
        found = [self.script]
        for module in found:
            for node in ast.walk(module.tree):
                for name in _imported_by(module, node):
                    path = self._locate(name)
                    if path is not None and self._is_own(path) and self._module(path, name) not in found:
                        found.append(self._module(path, name))
        return found

    def packages(self) -> list[str]:
        """Returns the names of the packages that the project imports from elsewhere, other than Python's own."""
        names = {
            name.partition(".")[0]
            for module in self.files()
            for node in ast.walk(module.tree)
            for name in _imported_by(module, node)
        }
        own = {name for name in names if (self._folder / name).is_dir() or (self._folder / f"{name}.py").is_file()}
        return sorted(names - own - sys.stdlib_module_names - FRAMEWORK_PACKAGES)

    def resolve(self, module: SourceModule, node: ast.expr) -> Resolved:
        """Finds the class that a name, or ``package.name``, refers to; None if that is not known."""
        parts = _dotted(node)
        return self._look_up(module, parts, frozenset()) if parts else None

    def named(self, name: str) -> Resolved:
        """Finds the class that a full name such as ``package.module.Class`` refers to."""
        return self._in_module("", name.split("."), frozenset())

    def _look_up(self, module: SourceModule, parts: list[str], seen: frozenset[tuple[str, ...]]) -> Resolved:
        key = (str(module.path), *parts)
        if key in seen:
            # Two files import the name from each other.
            return None
        seen |= {key}
        bound = module.bindings.get(parts[0])
        match bound:
            case ast.ClassDef():
                for part in parts[1:]:
                    inner = [each for each in bound.body if isinstance(each, ast.ClassDef) and each.name == part]
                    if not inner:
                        return None
                    bound = inner[0]
                return self._classes.setdefault(bound, ClassDefinition(module, bound))
            case Import(module=base, name=""):
                return self._in_module(base, parts[1:], seen)
            case Import(module=base, name=name):
                return self._in_module(base, [name, *parts[1:]], seen)
            case ast.expr():
                target = _dotted(bound)
                return self._look_up(module, [*target, *parts[1:]], seen) if target else None
        found = (self._in_module(star, parts, seen) for star in module.stars)
        return next((each for each in found if each is not None), None)

    def _in_module(self, name: str, parts: list[str], seen: frozenset[tuple[str, ...]]) -> Resolved:
        if not parts:
            return None
        full = ".".join([*filter(None, [name]), *parts])
        root = full.partition(".")[0]
        if root in sys.stdlib_module_names or (root in FRAMEWORK_PACKAGES and not full.startswith(DEMONSTRATIONS)):
            return Outside(full)
        module = self._find(name) if name else None
        if module is not None and (parts[0] in module.bindings or (len(parts) == 1 and module.stars)):
            return self._look_up(module, parts, seen)
        if len(parts) == 1:
            return Outside(full)
        # The first part may be a submodule rather than a name in the module.
        return self._in_module(".".join([*filter(None, [name]), parts[0]]), parts[1:], seen)

    def ancestry(self, resolved: Resolved) -> Ancestry:
        """Returns a class and its bases, depth first; without a source only itself."""
        order: Ancestry = []
        self._climb(resolved, order)
        return order

    def _climb(self, resolved: Resolved, order: Ancestry) -> None:
        if resolved is None or resolved in order:
            return
        order.append(resolved)
        if isinstance(resolved, ClassDefinition):
            for node in resolved.node.bases:
                name = node.value if isinstance(node, ast.Subscript) else node
                self._climb(self.resolve(resolved.module, name), order)

    def lightning_class(self, resolved: Resolved) -> str | None:
        """Returns the name of the Lightning class that something is or derives from, or None."""
        order = self.ancestry(resolved)
        for each in order:
            if isinstance(each, Outside) and each.lightnings in _OF_INTEREST:
                return each.lightnings
        # A base without source may derive from LightningModule.
        return "LightningModule" if "training_step" in methods_of(order) else None


def methods_of(ancestry: Ancestry) -> dict[str, tuple[ClassDefinition, ast.FunctionDef]]:
    """Returns the methods of a class and its bases by name, each with the class that defines it."""
    # The last one to be entered counts.
    return {
        node.name: (each, node)
        for each in reversed(ancestry)
        if isinstance(each, ClassDefinition)
        for node in each.node.body
        if isinstance(node, ast.FunctionDef)
    }


def shown(path: Path) -> str:
    """Returns a path relative to the working directory, if it is below that."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def positional(node: ast.FunctionDef) -> dict[str, ast.expr | None]:
    """Returns the positional parameters of a function by name, with their defaults."""
    arguments, defaults = [*node.args.posonlyargs, *node.args.args], node.args.defaults
    without = [None] * (len(arguments) - len(defaults))
    return {each.arg: default for each, default in zip(arguments, [*without, *defaults], strict=True)}


def keyword_only(node: ast.FunctionDef) -> dict[str, ast.expr | None]:
    """Returns the parameters of a function that are passed by name alone, with their defaults."""
    return {each.arg: default for each, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)}


def bound(call: ast.Call, parameters: Iterable[str]) -> dict[str, ast.expr]:
    """Returns the expressions of a call's arguments by parameter, given the positional parameters."""
    by_name = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    return {**dict(zip(parameters, call.args, strict=False)), **by_name}


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """Returns the expression of a call's argument, which may have a position; None if it is not passed."""
    if position is not None and position < len(call.args):
        return call.args[position]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _imported_by(module: SourceModule, node: ast.AST) -> Iterator[str]:
    """Yields the full names of the modules that a statement imports, or may import."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = module.absolute(node)
        yield base
        # `from package import name` imports a submodule if the package defines no such name.
        yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _dotted(node: ast.expr) -> list[str]:
    """Returns the parts of ``a.b.c``, or an empty list for another expression."""
    match node:
        case ast.Name(id=name):
            return [name]
        case ast.Attribute(value=value, attr=name):
            parts = _dotted(value)
            return [*parts, name] if parts else []
    return []
