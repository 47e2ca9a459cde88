"""Runs a command in a terminal of its own, and reads what a person would see there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.prepared_python import python
from tests.support.repository import REPOSITORY

CTRL_C = b"\x03"

_COLUMNS, _LINES = 160, 48

# Ctrl+C goes to the processes of a terminal that is theirs, which a session's first process has to ask for.
_IN_ITS_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Seen:
    """What a command has shown in a terminal.

    Attributes:
        exit_code: With which it has ended.
        written: All that it has written, one after the other.
    """

    exit_code: int
    written: str

    @property
    def drawn(self) -> list[str]:
        """Every text that has stood in a line for a moment, also if another was drawn over it."""
        return [text.strip() for text in re.split(r"[\r\n]+|\x1b\[A", self.written) if text.strip()]

    @property
    def screen(self) -> list[str]:
        """The lines as they are in the end, those that have been scrolled away included."""
        lines: list[list[str]] = [[]]
        row = column = 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.written):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                lines += [[]] * (row == len(lines))
            elif part == "\x1b[A":
                row = max(row - 1, 0)
            elif part == "\x1b[K":
                lines[row] = lines[row][:column]
            elif not part.startswith("\x1b"):
                line = lines[row]
                line += " " * (column - len(line))
                line[column : column + len(part)] = part
                column += len(part)
        return ["".join(line).rstrip() for line in lines]


def run_in_terminal(
    *command: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    interrupt_at: str | None = None,
    time_limit: float = 200,
) -> Seen:
    """Runs Python in a terminal, which all of its three streams are.

    Args:
        *command: The arguments of Python.
        folder: Where it runs.
        environment: Variables beside those that are set.
        interrupt_at: What has to be seen before Ctrl+C is pressed, if it is to be.
        time_limit: In seconds; the test fails when it takes longer.

    Returns:
        What was to be seen.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONWARNINGS": "ignore",
        **(environment or {}),
    }
    # Ctrl+C is sent to the processes of the terminal, which a prepared one is not.
    program = python() if interrupt_at is None else sys.executable
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_ITS_OWN_TERMINAL, program, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=variables,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        written = _read(ours, interrupt_at, time.monotonic() + time_limit)
        exit_code = process.wait(timeout=time_limit)
    except BaseException:
        # With the processes that it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        os.close(ours)
    return Seen(exit_code, written)


def _read(descriptor: int, interrupt_at: str | None, deadline: float) -> str:
    """Reads until nobody has the terminal open any more."""
    read = b""
    while time.monotonic() < deadline:
        if not select.select([descriptor], [], [], 1)[0]:
            continue
        try:
            part = os.read(descriptor, 65536)
        except OSError as error:
            # How Linux says it.
            if error.errno != errno.EIO:
                raise
            part = b""
        if not part:
            return read.decode("utf-8", errors="replace")
        read += part
        if interrupt_at is not None and interrupt_at.encode() in read:
            os.write(descriptor, CTRL_C)
            interrupt_at = None
    raise AssertionError(f"it takes too long; by now there is:\n{read.decode('utf-8', errors='replace')}")
