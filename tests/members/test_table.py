"""The table of members, compared with the Lightning that is installed."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.specifiers import SpecifierSet

from lightning_shim.members import query as table
from lightning_shim.members.member import Kind, Member, Support
from lightning_shim.members.table import MEMBERS, OWNERS
from tests.support.namespaces import NAMESPACES
from tests.support.repository import REPOSITORY
from tools import support_page as tool
from tools.support_page import support_page

# A sentence follows a colon, so it starts with a small letter unless with one of these.
PROPER_NAMES = ("Determined", "Lightning", "TensorBoard")


def row_id(row: Member) -> str:
    return f"{row.owner}.{row.name}"


def classes(namespace: str, owner: str) -> tuple[type, ...]:
    lightning = importlib.import_module(namespace)
    if owner == "callbacks":
        return ()
    if owner == "Logger":
        loggers = importlib.import_module(f"{namespace}.loggers")
        return (loggers.Logger, loggers.TensorBoardLogger)
    return (getattr(lightning, owner),)


def public_members(namespace: str, owner: str) -> set[str]:
    if owner == "callbacks":
        return set(importlib.import_module(f"{namespace}.callbacks").__all__)
    names = {name for cls in classes(namespace, owner) for name in dir(cls) if not name.startswith("_")}
    if owner != "LightningModule":
        return names
    (lightning_module,) = classes(namespace, owner)
    inherited = {
        name
        for name in names & set(dir(torch.nn.Module))
        if inspect.getattr_static(lightning_module, name) is inspect.getattr_static(torch.nn.Module, name)
    }
    return names - inherited


@pytest.fixture(scope="module", params=NAMESPACES)
def lightning(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


@pytest.fixture(scope="module")
def instances(lightning: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """One object of each owner, for the attributes that only objects have."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return {
        "LightningModule": lightning.LightningModule(),
        "LightningDataModule": lightning.LightningDataModule(),
        "Trainer": trainer,
        "Logger": lightning.loggers.TensorBoardLogger(tmp_path_factory.mktemp("logger")),
        "Callback": lightning.Callback(),
        "callbacks": lightning.callbacks,
    }


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_installed_member_has_one_row(namespace: str) -> None:
    counts = Counter((row.owner, row.name) for row in MEMBERS)
    members = [(owner, name) for owner in OWNERS for name in sorted(public_members(namespace, owner))]
    assert len(members) > 200
    wrong = {f"{owner}.{name}": counts[owner, name] for owner, name in members if counts[owner, name] != 1}
    assert wrong == {}, (
        f"{namespace} {importlib.import_module(namespace).__version__} has members that need one row each in "
        "lightning_shim/members/table.py, and have so many. Decide what becomes of each on Determined, add its row, "
        "and refresh SUPPORT.md."
    )


def test_every_attribute_of_an_object_has_a_row(instances: dict[str, object]) -> None:
    own = {owner: set(vars(instance)) for owner, instance in instances.items() if owner != "callbacks"}
    own["LightningModule"] -= set(vars(torch.nn.Module()))
    rows = {(row.owner, row.name) for row in MEMBERS}
    missing = [
        f"{owner}.{name}"
        for owner, names in own.items()
        for name in sorted(names)
        if not name.startswith("_") and (owner, name) not in rows
    ]
    assert not missing, f"lightning_shim/members/table.py needs a row for each of these attributes: {missing}"


@pytest.mark.versions
def test_versions_say_what_is_installed(lightning: ModuleType, instances: dict[str, object]) -> None:
    existing = {owner: set(dir(instance)) for owner, instance in instances.items()}
    # Before 2.6 a Trainer has it when it fits.
    existing["Trainer"].add("val_check_batch")
    wrong = [
        f"{row_id(row)} {row.versions}"
        for row in MEMBERS
        if SpecifierSet(row.versions).contains(lightning.__version__, prereleases=True)
        != (row.name in existing[row.owner])
    ]
    assert not wrong, f"Lightning {lightning.__version__} lacks what these rows claim, or has what they deny: {wrong}"


def test_kinds_are_those_of_the_installed_classes(lightning: ModuleType) -> None:
    wrong = []
    for row in MEMBERS:
        for cls in classes(lightning.__name__, row.owner):
            found = inspect.getattr_static(cls, row.name, None)
            if isinstance(found, property):
                kinds = {Kind.PROPERTY}
            else:
                kinds = {Kind.HOOK, Kind.METHOD} if hasattr(type(found), "__get__") else {Kind.ATTRIBUTE}
            if found is not None and row.kind not in kinds:
                wrong.append(f"{row_id(row)} is no {row.kind.value}")
    assert not wrong


def test_no_member_has_two_rows() -> None:
    assert [key for key, count in Counter(map(row_id, MEMBERS)).items() if count > 1] == []


def test_rows_are_well_formed() -> None:
    for row in MEMBERS:
        SpecifierSet(row.versions)
        assert row.owner in OWNERS, row_id(row)
        assert row.name.isidentifier(), row_id(row)
        assert row.sentence.endswith("."), f"{row_id(row)}: a sentence ends with a period"
        assert not re.search(r"[.!?]\s|\s\s|\|", row.sentence), f"{row_id(row)}: one sentence, in one table cell"
        assert row.sentence[0].islower() or row.sentence.startswith(PROPER_NAMES), f"{row_id(row)}: it follows a colon"
        if row.support is Support.CALLED:
            assert row.kind is Kind.HOOK, row_id(row)


@pytest.mark.parametrize("owner", OWNERS)
def test_members_selects_by_support(owner: str) -> None:
    rows = table.members(owner)
    assert rows == tuple(row for row in MEMBERS if row.owner == owner)
    assert table.members(owner, *Support) == rows
    selected = table.members(owner, Support.REFUSED, Support.IGNORED)
    assert selected == tuple(row for row in rows if row.support.value in {"refused", "ignored"})
    assert [table.find(owner, row.name) for row in rows] == list(rows)


def test_import_needs_the_standard_library_only() -> None:
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "before = set(sys.modules)\n"
        f"import {table.__name__}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - sys.stdlib_module_names))\n"
    )
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["lightning_shim"]


def test_support_page_is_fresh() -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == support_page(), (
        "SUPPORT.md is out of date; refresh it with: python tools/support_page.py"
    )


def test_running_the_tool_writes_the_page(tmp_path: Path) -> None:
    # A copy, which writes beside itself and not into this repository.
    copy = tmp_path / "tools" / "support_page.py"
    copy.parent.mkdir()
    shutil.copy(tool.__file__, copy)
    environment = os.environ | {"PYTHONPATH": str(tool.PAGE.parent)}
    subprocess.run([sys.executable, copy], env=environment, check=True)
    assert (tmp_path / "SUPPORT.md").read_text(encoding="utf-8") == support_page()


def test_support_page_has_every_row_and_puts_attention_first() -> None:
    lines = re.findall(r"^\| `(\w+)` \| (\w+) \|", support_page(), flags=re.MULTILINE)
    assert sorted(lines) == sorted((row.name, row.support.value) for row in MEMBERS)
    for part in support_page().split("\n#")[1:]:
        supports = re.findall(r"^\| `\w+` \| (\w+) \|", part, flags=re.MULTILINE)
        order = ["refused", "ignored", "backed", "called", "native"]
        assert supports == sorted(supports, key=order.index)
