"""Look-ups in the table of members."""

from __future__ import annotations

from typing import Final

from lightning_shim.members.member import Member, Support
from lightning_shim.members.table import MEMBERS

_BY_NAME: Final = {(row.owner, row.name): row for row in MEMBERS}


def find(owner: str, name: str) -> Member | None:
    """Looks up a name that need not be a member."""
    return _BY_NAME.get((owner, name))


def member(owner: str, name: str) -> Member:
    """Looks up a member that the table has."""
    return _BY_NAME[owner, name]


def members(owner: str, *supports: Support) -> tuple[Member, ...]:
    """Returns the members of one class, all or those of some levels of support."""
    return tuple(row for row in MEMBERS if row.owner == owner and (not supports or row.support in supports))
