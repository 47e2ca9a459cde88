"""The table of results with sets of versions says what pytest reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import version_sets

TESTS = """
import pytest

def test_passes():
    pass

def test_is_skipped():
    pytest.skip("there is no GPU")

@pytest.mark.parametrize("number", [1, 2])
def test_fails(number):
    raise ValueError("a | b\\nand more")

@pytest.fixture
def broken():
    raise OSError("/a/folder/disk is full")

def test_errors(broken):
    pass
"""


def test_row_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "test_small.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    # In a folder of its own, pytest reads no configuration of ours.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", "--rootdir=."]
    ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "1 passed, 1 skipped" in ended.stdout, ended.stdout + ended.stderr

    row = version_sets.Result.read(report).row("oldest", "all")

    cells = [cell.strip() for cell in row.replace(r"\|", "BAR").strip().strip("|").split("|")]
    assert cells[1:5] == ["oldest", "all", "1", "3"]
    assert "2 x `ValueError: a BAR b`" in cells[5]
    assert "OSError: disk is full" in cells[5]


def test_row_takes_the_place_of_an_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "versions.md"
    page.write_text(
        f"before\n{version_sets.START}\n{version_sets.HEADER}| then | oldest | all | 1 | 2 | x |\n{version_sets.END}\n"
    )
    monkeypatch.setattr(version_sets, "PAGE", page)

    version_sets.write("| now | oldest | all | 3 | 0 |  |\n", "oldest", "all")
    version_sets.write("| now | image | all | 4 | 0 |  |\n", "image", "all")

    rows = page.read_text().partition(version_sets.HEADER)[2].splitlines()
    assert rows == ["| now | oldest | all | 3 | 0 |  |", "| now | image | all | 4 | 0 |  |", version_sets.END]
