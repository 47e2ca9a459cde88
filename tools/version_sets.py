"""Runs the tests with each set of versions, and writes the results into the table of docs/versions.md.

    .ci/versions                                  # every set, all tests
    .ci/versions image --tests tests/parity        # one set, some of the tests

Each set has a new virtual environment, which is deleted afterwards. Where an index has only torch's CUDA build for a
Python, as it has for the image's set, a set downloads 2.5 GB.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PAGE: Final = REPOSITORY / "docs" / "versions.md"
START, END = "<!-- results -->", "<!-- end of results -->"
HEADER: Final = "| date | set | tests | passed | failed | why |\n| --- | --- | --- | --- | --- | --- |\n"


@dataclass(frozen=True, slots=True)
class VersionSet:
    """Versions that are tried together.

    Attributes:
        constraints: The file that pip takes them from.
        python: The command of the Python that they are for.
    """

    constraints: str
    python: str


SETS: Final = {
    "newest": VersionSet("constraints.txt", "python3.11"),
    "image": VersionSet("constraints-image.txt", "python3.10"),
    "oldest": VersionSet("constraints-oldest.txt", "python3.11"),
    "python-3.12": VersionSet("constraints.txt", "python3.12"),
    "python-3.13": VersionSet("constraints.txt", "python3.13"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of the tests gave.

    Attributes:
        passed: The number of tests that passed.
        errors: How often each error came, by its first line.
    """

    passed: int
    errors: Counter[str]

    @classmethod
    def read(cls, report: Path) -> Result:
        """Reads a report that pytest has written in JUnit's format.

        Args:
            report: The file.

        Returns:
            The result.
        """
        passed, errors = 0, Counter[str]()
        for case in ElementTree.parse(report).iter("testcase"):
            failures = [*case.findall("failure"), *case.findall("error")]
            errors.update((each.get("message") or "no message").splitlines()[0] for each in failures[:1])
            passed += not failures and case.find("skipped") is None
        return cls(passed, errors)

    def row(self, name: str, tests: str) -> str:
        """Formats the result as a row of the page's table.

        Args:
            name: The set's name.
            tests: Which tests were run.

        Returns:
            The line.
        """
        # Folders are those of the machine on which it ran.
        errors = [(re.sub(r"/\S+/", "", error), count) for error, count in self.errors.most_common(3)]
        why = "; ".join(f"{count} x `{error[:100]}`" for error, count in errors)
        cells = (
            str(datetime.date.today()),
            name,
            tests,
            str(self.passed),
            str(self.errors.total()),
            why.replace("|", "\\|"),
        )
        return f"| {' | '.join(cells)} |\n"


def run(name: str, tests: list[str]) -> Result:
    """Installs a set into a new environment, trains the example, and runs tests.

    Args:
        name: The set's name.
        tests: Arguments of pytest; all tests if there are none.

    Returns:
        The result.

    Raises:
        SystemExit: If the set's Python is not there, or does not start.
    """
    versions = SETS[name]
    python = shutil.which(versions.python)
    # A version manager may have a command on the PATH for a Python that it does not start.
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode != 0:
        raise SystemExit(f"The set {name!r} needs {versions.python}, which is not on the PATH, or does not start.")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run([python, "-m", "venv", f"{folder}/environment"], check=True)
        in_environment = f"{folder}/environment/bin/python"
        install = ["-m", "pip", "install", "--quiet", "--constraint", versions.constraints, "--editable", ".[test]"]
        for command in (install, ["examples/mnist/model_def.py"]):
            subprocess.run([in_environment, *command], cwd=REPOSITORY, check=True)
        command = [in_environment, "-m", "pytest", f"--junit-xml={report}", *tests]
        # Each process imports everything itself, in the order in which it does for users.
        subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"FRESH_PROCESSES": "1"}, check=False)
        return Result.read(report)


def write(row: str, name: str, tests: str) -> None:
    """Puts a row into the page, in the place of an older one of the same set and tests.

    Args:
        row: The line.
        name: The set's name.
        tests: Which tests were run.
    """
    before, _, rest = PAGE.read_text().partition(START)
    table, _, after = rest.partition(END)
    others = [line for line in table.splitlines(keepends=True)[3:] if f"| {name} | {tests} |" not in line]
    PAGE.write_text(f"{before}{START}\n{HEADER}{''.join(others)}{row}{END}{after}")


def main() -> int:
    """Runs the sets that the command line names.

    Returns:
        The exit code: 1 if a test failed.
    """
    parser = argparse.ArgumentParser(prog=".ci/versions", description="Runs the tests with sets of versions.")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"one of {', '.join(SETS)}; all if none is given")
    parser.add_argument("--tests", nargs="+", default=[], help="what pytest is to run; all tests if it is not given")
    options = parser.parse_args()
    if unknown := [name for name in options.sets if name not in SETS]:
        parser.error(f"there is no set {unknown[0]!r}; there are {', '.join(SETS)}")
    tests = options.tests
    described = f"`{' '.join(tests)}`" if tests else "all"
    failed = False
    for name in options.sets or SETS:
        result = run(name, tests)
        write(result.row(name, described), name, described)
        failed |= bool(result.errors)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
