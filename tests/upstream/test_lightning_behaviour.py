"""What depends on Lightning's version: each row tells versions that are accepted apart.

That it tells them apart rightly is seen where modules are compared with the Trainer of the installed Lightning.
"""

from __future__ import annotations

import configparser

import pytest
from packaging.requirements import Requirement

from lightning_shim.upstream import lightning_behaviour
from lightning_shim.upstream.lightning_behaviour import Behaviour
from tests.support.repository import REPOSITORY

ROWS = {name: row for name, row in vars(lightning_behaviour).items() if isinstance(row, Behaviour)}
RELEASES = ["2.2.5", "2.3.3", "2.4.0", "2.5.0", "2.5.5", "2.5.6", "2.6.0", "2.6.6"]


def test_the_releases_are_accepted_from_the_oldest_on() -> None:
    declared = configparser.ConfigParser()
    declared.read(REPOSITORY / "setup.cfg")
    [line] = [each for each in declared["options"]["install_requires"].splitlines() if "lightning" in each]
    accepted = Requirement(line).specifier
    assert all(release in accepted for release in RELEASES)
    assert "2.2.4" not in accepted


@pytest.mark.parametrize("name", ROWS)
def test_row_tells_releases_apart(name: str) -> None:
    does = [ROWS[name].is_of(release) for release in RELEASES]
    # What has come with a version has stayed.
    assert does == sorted(does)
    assert set(does) == {False, True}


def test_version_before_a_release_counts() -> None:
    assert Behaviour(">=2.5", "").is_of("2.6.0rc1")


@pytest.mark.parametrize("name", ROWS)
def test_row_is_in_the_page_of_versions(name: str) -> None:
    row = ROWS[name]
    line = f"| {row.versions.removeprefix('>=')} | {row.sentence} |"
    assert line in (REPOSITORY / "docs" / "versions.md").read_text().splitlines()
