"""One member of a Lightning class, and the levels of support."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Support(enum.Enum):
    """What becomes of a member on Determined.

    What would change the weights or lose a result if it were left out is refused, not ignored.
    """

    NATIVE = "native"  # works untouched
    BACKED = "backed"  # answered by Determined
    CALLED = "called"  # a hook that the trial calls
    IGNORED = "ignored"  # a warning, no effect
    REFUSED = "refused"  # an error: for a hook when the trial is built, for anything else where it is used


class Kind(enum.Enum):
    """How a member is used."""

    HOOK = "hook"  # the user overrides it and a loop calls it
    METHOD = "method"  # the user calls it
    PROPERTY = "property"
    ATTRIBUTE = "attribute"  # of an instance, or a constant of the class
    CLASS = "class"  # of Lightning's, whose objects the user passes


@dataclass(frozen=True, slots=True)
class Member:
    """One row of the table.

    Attributes:
        owner: The class that has the member, one of :data:`OWNERS`.
        name: The member's name.
        kind: How it is used.
        support: What becomes of it on Determined.
        sentence: What happens, as one sentence that can follow a colon.
        versions: The versions of Lightning that have the member, as a version specifier.
    """

    owner: str
    name: str
    kind: Kind
    support: Support
    sentence: str
    versions: str

    @property
    def is_removed(self) -> bool:
        """Whether Lightning has removed the member."""
        return "<" in self.versions
