"""Look-ups in the table of members."""

from __future__ import annotations

import difflib
from typing import Final

from lightning_shim.members.member import Member, Support
from lightning_shim.members.table import MEMBERS, OWNERS

_BY_NAME: Final = {(row.owner, row.name): row for row in MEMBERS}


def find(owner: str, name: str) -> Member | None:
    """Looks up a name that need not be a member."""
    return _BY_NAME.get((owner, name))


def member(owner: str, name: str) -> Member:
    """Looks up a member.

    Raises:
        KeyError: If the table has no such owner or member.
    """
    row = find(owner, name)
    if row is None:
        similar = difflib.get_close_matches(name, [row.name for row in members(owner)], n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise KeyError(f"the table of members has no row for {owner}.{name}{hint}")
    return row


def members(owner: str, *supports: Support) -> tuple[Member, ...]:
    """Returns the members of one class.

    Args:
        owner: The class, one of ``OWNERS``.
        *supports: The levels of support to select; without any, all members are returned.

    Raises:
        KeyError: If the table has no such owner.
    """
    if owner not in OWNERS:
        raise KeyError(f"the table of members has no owner {owner!r}; it has {', '.join(OWNERS)}")
    return tuple(row for row in MEMBERS if row.owner == owner and (not supports or row.support in supports))
