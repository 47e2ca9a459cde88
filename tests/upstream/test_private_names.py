"""The private names of others are where they were, and private_names.txt lists all that the package relies on."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from packaging.specifiers import SpecifierSet

import lightning_shim

PACKAGE: Final = Path(lightning_shim.__file__).parent
FENCED: Final = [
    *PACKAGE.glob("upstream/**/*.py"),
    *PACKAGE.glob("patching/*.py"),
    PACKAGE / "data" / "workers.py",
]
OWN: Final = re.compile(r"_lightning_shim_|_abc_|__\w+__|_exit|_+$")
"""Names that are nobody else's private ones: ours, and those of Python."""

DISTRIBUTIONS: Final = {"pytorch_lightning": "pytorch-lightning", "lightning_fabric": "pytorch-lightning"}
OTHER_NAMESPACE: Final = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}


def rows() -> Iterator[tuple[str, str, str]]:
    """Yields the module, the name and the versions that have it."""
    module = ""
    for line in (Path(__file__).parent / "private_names.txt").read_text().partition("\n\n")[2].splitlines():
        if not line.startswith(" "):
            module = line
            continue
        for entry in line.strip().partition("  ")[0].split():
            name, operator, bound = re.fullmatch(r"(\w+)([<>=]*)([\d.]*)", entry).groups()  # type: ignore[union-attr]
            yield module, name, operator + bound


def spellings(module: str) -> list[str]:
    package, _, rest = module.partition(".")
    return [module, f"{OTHER_NAMESPACE[package]}.{rest}"] if package in OTHER_NAMESPACE else [module]


def installed(module: str) -> str:
    package = module.partition(".")[0]
    return version(DISTRIBUTIONS.get(package, package))


def has(module: str, name: str) -> bool:
    spec = importlib.util.find_spec(module)
    source = Path(spec.origin).read_text() if spec is not None and spec.origin is not None else ""
    return bool(re.search(rf"(?<!\w){name}(?!\w)", source)) or hasattr(importlib.import_module(module), name)


@pytest.mark.versions
def test_names_are_there() -> None:
    expected = [
        (spelling, name)
        for module, name, versions in rows()
        if not versions or SpecifierSet(versions).contains(installed(module), prereleases=True)
        for spelling in spellings(module)
    ]
    assert [f"{module} has no {name}" for module, name in expected if not has(module, name)] == []


def private_names(file: Path) -> Iterator[str]:
    """Yields the private names that a file uses of other objects than its own: attributes, keywords, imports, texts."""
    tree = ast.parse(file.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    names: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                names.append(name)
            case ast.ImportFrom(module=str(module), names=aliases) if not module.startswith("lightning_shim"):
                names += [alias.name for alias in aliases if alias.asname is None]
            case ast.Constant(value=str(text)) if re.fullmatch(r"(?:[\w.]*:)?_\w+", text):
                names.append(text.rpartition(":")[2])
    return (name for name in names if name.startswith("_") and name not in own and not OWN.match(name))


def test_all_of_them_are_listed() -> None:
    listed = {name for _, name, _ in rows()}
    used = {name: file.name for file in FENCED for name in private_names(file)}
    assert {name: file for name, file in used.items() if name not in listed} == {}


def test_those_that_are_listed_are_used() -> None:
    text = "\n".join(file.read_text() for file in FENCED)
    assert [name for _, name, _ in rows() if not re.search(rf"(?<![A-Za-z0-9]){name}(?!\w)", text)] == []
