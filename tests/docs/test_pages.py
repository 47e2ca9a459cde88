"""The pages for people: their links lead somewhere, and the README is short."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
PAGES = sorted(LISTED.split())


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "SUPPORT.md", "docs/training.md", "docs/cluster.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(REPOSITORY / page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`\n[a](#one-two) [b](page.md#one-two) [c](#three) [d](page.md#three) [e](none.md)\n")
    assert dead_links(page) == ["#three", "page.md#three", "none.md"]


def test_readme_is_short_and_leads_to_every_page() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    pages = {page for page in PAGES if page.startswith("docs/") or ("/" not in page and page != "README.md")}
    assert pages <= set(re.findall(r"\]\(([^)#\s]+)", readme))


def test_every_test_for_gpus_is_listed() -> None:
    files = REPOSITORY.joinpath("tests/gpu").glob("test_*.py")
    tests = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    listed = re.findall(r"^\| `(test_\w+)`", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(tests)
