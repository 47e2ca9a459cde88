"""The findings of an inspection, and the table that shows them to the user."""

from __future__ import annotations

import enum
import os
import pathlib
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from tabulate import MIN_PADDING, tabulate

from lightning_shim.members.member import Support

_ORDER: Final = (Support.CALLED, Support.BACKED, Support.NATIVE, Support.IGNORED, Support.REFUSED)
_HEADERS: Final = ("file:line", "member", "support", "what happens")
_GAP: Final = "  "
_TRAINING: Final = ("LightningModule", "Trainer")
_MIN_WIDTH: Final = 30
"""The least width of the last column, however narrow the terminal is."""


class Role(enum.Enum):
    """The relation of a finding's line to the member."""

    OVERRIDE = "override"  # the line defines it
    USE = "use"  # the line reads, calls or sets it
    MADE = "made"  # the line creates a callback, which the trial checks once it exists
    UNREACHED = "unreached"  # the line uses it, but a trial never runs that line


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the user's code that overrides or uses a member, with the member's support.

    Attributes:
        file: The file, as in a traceback.
        line: The line, from 1.
        member: The member, such as ``LightningModule.training_step`` or ``Trainer.fit_loop``.
        support: Its level of support.
        sentence: What happens on Determined, as a sentence that can follow a colon.
        role: The line's relation to the member.
        spelling: The member as in the user's code: ``LitModel.training_step``, ``trainer.fit_loop``.
        module: The name of the Python module that the line is in.
    """

    file: str
    line: int
    member: str
    support: Support
    sentence: str
    role: Role
    spelling: str
    module: str

    @property
    def shown_file(self) -> str:
        """The file, relative to the working directory if it lies below it."""
        path = pathlib.Path(self.file)
        return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(pathlib.Path.cwd()) else self.file

    def as_dict(self) -> dict[str, Any]:
        """Returns ``file``, ``line``, ``member``, ``support``, ``sentence`` and ``role``, as plain values."""
        return {
            "file": self.shown_file,
            "line": self.line,
            "member": self.member,
            "support": self.support.value,
            "sentence": self.sentence,
            "role": self.role.value,
        }


@dataclass(frozen=True, slots=True)
class CompatibilityReport:
    """The support of all members that a module, data module, callback or script uses; ``str`` makes the table.

    Attributes:
        name: The qualified name of its class, or the script's file.
        owner: Its Lightning base class: ``LightningModule``, ``LightningDataModule`` or ``Callback``; ``Trainer`` for a
            script.
        findings: The findings, by file and line.
        unread: The qualified names of classes whose source could not be read, so that their uses are unknown, and the
            dictionaries that a script passes to its Trainer.
    """

    name: str
    owner: str
    findings: tuple[Finding, ...]
    unread: tuple[str, ...] = ()

    @property
    def refused(self) -> tuple[Finding, ...]:
        """The findings that are errors on Determined."""
        return tuple(finding for finding in self.findings if finding.support is Support.REFUSED)

    @property
    def ignored(self) -> tuple[Finding, ...]:
        """The findings that have no effect on Determined."""
        return tuple(finding for finding in self.findings if finding.support is Support.IGNORED)

    @property
    def is_supported(self) -> bool:
        """Whether nothing is refused."""
        return not self.refused

    @property
    def verdict(self) -> str:
        """The conclusion in one line, with the number of findings by support."""
        counts = Counter(finding.support for finding in self.findings)
        counted = ", ".join(f"{counts[support]} {support.value}" for support in _ORDER if counts[support])
        if self.refused:
            verdict = f"{self.name} is refused: fix the {_counted(len(self.refused), 'refused member')}"
        else:
            verdict = f"{self.name} {'trains' if self.owner in _TRAINING else 'works'} on Determined"
            if self.ignored:
                verdict += f", with {_counted(len(self.ignored), 'difference')}"
        return f"{verdict} ({counted})." if counted else f"{verdict}."

    def __str__(self) -> str:
        lines = [self._table()] if self.findings else []
        if self.unread:
            lines.append(f"The source of {', '.join(self.unread)} could not be read: what is used there is not known.")
        return "\n\n".join([*lines, self.verdict])

    def _table(self) -> str:
        rows = [
            (f"{finding.shown_file}:{finding.line}", finding.member, finding.support.value, finding.sentence)
            for finding in self.findings
        ]
        # The last column gets the rest of the terminal's width. Each column is at least as wide as its padded header.
        headers = [header + " " * MIN_PADDING for header in _HEADERS]
        widths = [max(map(len, column)) + len(_GAP) for column in zip(headers, *rows, strict=True)]
        left = shutil.get_terminal_size(fallback=(120, 24)).columns - sum(widths[:-1])
        table: str = tabulate(
            rows,
            headers=_HEADERS,
            tablefmt="simple",
            maxcolwidths=[None, None, None, max(left, _MIN_WIDTH)],
            disable_numparse=True,
        )
        return table

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain values, for JSON, with the number of findings by support as ``counts``."""
        counts = Counter(finding.support for finding in self.findings)
        return {
            "name": self.name,
            "owner": self.owner,
            "is_supported": self.is_supported,
            "counts": {support.value: counts[support] for support in Support},
            "findings": [finding.as_dict() for finding in self.findings],
            "unread": list(self.unread),
        }


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
