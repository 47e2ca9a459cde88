"""Questions to the table of members."""

from __future__ import annotations

import difflib
from typing import Final

from lightning_shim.members.member import Member, Support
from lightning_shim.members.table import MEMBERS, OWNERS

_BY_NAME: Final = {(row.owner, row.name): row for row in MEMBERS}


def find(owner: str, name: str) -> Member | None:
    """Returns the row of what may be a member.

    Args:
        owner: The class that may have the member.
        name: The member's name.

    Returns:
        The row, or None if there is none for such a member.
    """
    return _BY_NAME.get((owner, name))


def member(owner: str, name: str) -> Member:
    """Returns the row of one member.

    Args:
        owner: The class that has the member, one of :data:`OWNERS`.
        name: The member's name.

    Returns:
        The row.

    Raises:
        KeyError: If there is no such owner, or no row for such a member of it.
    """
    row = find(owner, name)
    if row is None:
        similar = difflib.get_close_matches(name, [row.name for row in members(owner)], n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise KeyError(f"the table of members has no row for {owner}.{name}{hint}")
    return row


def members(owner: str, *supports: Support) -> tuple[Member, ...]:
    """Returns the rows of one owner.

    Args:
        owner: The class that has the members, one of :data:`OWNERS`.
        *supports: Only rows with one of these; all rows if none is given.

    Returns:
        The rows, in the order of the table.

    Raises:
        KeyError: If there is no such owner.
    """
    if owner not in OWNERS:
        raise KeyError(f"the table of members has no owner {owner!r}; it has {', '.join(OWNERS)}")
    return tuple(row for row in MEMBERS if row.owner == owner and (not supports or row.support in supports))
