"""Lines in the log of a trial."""

from __future__ import annotations

from lightning_shim.diagnostics.warn import is_rank_zero


def say(line: str) -> None:
    """Prints a line about the trial, on rank 0 only."""
    if is_rank_zero():
        print(f"lightning_shim: {line}", flush=True)
