"""Writes ``SUPPORT.md``, the tables of members, from the table in ``lightning_shim/members``.

``python tools/support_page.py`` writes the page; ``tests/members/test_table.py`` says when it has to be written again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lightning_shim.members.member import Member, Support
from lightning_shim.members.query import members
from lightning_shim.members.table import OWNERS

PAGE: Final = Path(__file__).parents[1] / "SUPPORT.md"

_HEAD: Final = """\
# What works on Determined

<!-- Generated from the table of members by: python tools/support_page.py -->

This page lists every public member of the Lightning classes that a module uses, and says what happens to it on
Determined. Each class has the members of Lightning 2 first, then those that Lightning has removed since 0.9, because
older modules may still use them. Within a table the members that need your attention come first.
`python -m lightning_shim check my_model:LitModel` finds those that your own module uses.
[docs/differences.md](docs/differences.md) has the differences that belong to no member.

| support | what it means | what you see |
| --- | --- | --- |
| refused | Leaving it out would change the weights or lose a result. | An error: before training starts if \
you override a hook, otherwise when you call or read the member. |
| ignored | It has no effect; weights and results do not depend on it. | A warning that points at \
your line. Training goes on. |
| backed | Determined answers it in place of Lightning's Trainer. | Nothing; the table has the answer. |
| called | It is a hook, and the trial calls it. | Nothing. |
| native | It works untouched. | Nothing. |

If your class defines a method that is ignored or that Lightning has removed, you can still call it yourself. The last
column says which versions of Lightning have the member, in the notation of pip.
"""

_SUBTITLES: Final = {
    "LightningModule": "What a module overrides, calls and reads on `self`.",
    "LightningDataModule": "What a data module overrides, calls and reads on `self`.",
    "Trainer": "What a module finds in `self.trainer`, and a callback's hooks in their argument `trainer`.",
    "Logger": "What a module finds in `self.logger`, including the members of Lightning's TensorBoardLogger.",
    "Callback": "What a callback of the trial overrides and reads on `self`.",
    "callbacks": "Lightning's own callbacks. A subclass is treated like its base.",
}

_BY_ATTENTION: Final = (Support.REFUSED, Support.IGNORED, Support.BACKED, Support.CALLED, Support.NATIVE)


def _markdown_table(rows: list[Member]) -> list[str]:
    lines = ["| member | support | what happens | versions |", "| --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: _BY_ATTENTION.index(row.support)):
        # Markdown would print __init__ as a bold "init".
        sentence = row.sentence[0].upper() + row.sentence[1:].replace("__", r"\_\_")
        lines.append(f"| `{row.name}` | {row.support.value} | {sentence} | `{row.versions}` |")
    return lines


def support_page() -> str:
    """Writes the page.

    Returns:
        Its text, in Markdown.
    """
    lines = _HEAD.splitlines()
    for owner in OWNERS:
        current = [row for row in members(owner) if not row.is_removed]
        removed = [row for row in members(owner) if row.is_removed]
        lines += ["", f"## {owner}", "", _SUBTITLES[owner], "", *_markdown_table(current)]
        if removed:
            lines += ["", f"### {owner}: what Lightning removed", "", *_markdown_table(removed)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(support_page(), encoding="utf-8")
