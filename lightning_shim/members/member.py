"""A row of the table of members, and the levels of support."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Support(enum.Enum):
    """The level of a member's support on Determined.

    A member is refused rather than ignored if leaving it out would change the weights or lose a result.
    """

    NATIVE = "native"  # works untouched
    BACKED = "backed"  # answered by the trial in place of Lightning's Trainer
    CALLED = "called"  # a hook that the trial calls
    IGNORED = "ignored"  # a warning, no effect
    REFUSED = "refused"  # an error: for a hook when the trial is built, for anything else where it is used


class Kind(enum.Enum):
    """The way in which the user's code uses a member."""

    HOOK = "hook"  # overridden by the user, called by a loop
    METHOD = "method"  # called by the user
    PROPERTY = "property"
    ATTRIBUTE = "attribute"  # of an instance, or a constant of the class
    CLASS = "class"  # one of Lightning's, whose objects the user passes to the trial


@dataclass(frozen=True, slots=True)
class Member:
    """One row of the table."""

    owner: str  # the class that has the member, one of `OWNERS` in the table
    name: str
    kind: Kind  # the way in which it is used
    support: Support
    sentence: str  # what happens on Determined, as one sentence that can follow a colon
    versions: str  # the versions of Lightning that have the member, as a version specifier

    @property
    def is_removed(self) -> bool:
        """Whether current Lightning lacks the member."""
        # Only a removed member has an upper bound.
        return "<" in self.versions
