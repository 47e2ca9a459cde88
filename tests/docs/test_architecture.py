"""docs/architecture.md and CONTRIBUTING.md name packages and files that are there."""

from __future__ import annotations

import re

import pytest

from tests.support.repository import REPOSITORY

ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text()
PACKAGE = REPOSITORY / "lightning_shim"


def test_table_has_every_package() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", ARCHITECTURE.split("## Packages")[1], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(named) == sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists())


@pytest.mark.parametrize(
    "name",
    sorted(
        set(
            re.findall(
                r"(?<!tests/)\b((?:trial|facade|checkpoint|loop|data|metrics|patching|members|session|upstream)/\w+)",
                ARCHITECTURE,
            )
        )
    ),
)
def test_files_that_are_named_exist(name: str) -> None:
    assert (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(lightning_shim/[\w/.]+)`", (REPOSITORY / "CONTRIBUTING.md").read_text())))
)
def test_files_that_contributing_names_exist(name: str) -> None:
    assert (REPOSITORY / name).exists()
