"""A Python whose processes begin with torch, Lightning and Determined imported, which otherwise takes each 5 seconds.

For tests that start processes because of what these do: train side by side, are paused, die. Each process is a fork of
one that has done nothing but import those packages. Ours is imported by each process itself, and so are the scripts. A
fork has its own arguments, environment, streams, working directory, process group, warning filters and random numbers;
``sys.executable`` is the prepared Python again. The hashes of texts are those of the process that it is a fork of.

Not for tests of what is imported when, of Ctrl+C in a terminal, of the README's commands, and of the command line:
those start with ``sys.executable``. If ``FRESH_PROCESSES`` is set in the environment, or there is a GPU, all do.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch


@functools.cache
def python() -> str:
    """Starts the process of which others are forks, and returns a path to use in place of ``sys.executable``."""
    # Somebody may have asked whether there is a GPU, which a fork cannot use then.
    if "FRESH_PROCESSES" in os.environ or torch.cuda.is_available():
        return sys.executable
    folder = tempfile.TemporaryDirectory(prefix="prepared_python")
    atexit.register(folder.cleanup)
    address, client = Path(folder.name, "socket"), Path(folder.name, "bin", "python")
    client.parent.mkdir()
    text = Path(__file__).with_name("client.py").read_text()
    client.write_text(text.replace("REAL_PYTHON", sys.executable).replace("ADDRESS", str(address)))
    client.chmod(0o755)
    client.with_name("python3").symlink_to(client)
    # It ends when its input does, however this process ends.
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("server.py"), address, client],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    atexit.register(server.communicate)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return str(client)
