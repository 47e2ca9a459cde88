"""Starts a script on processes of this machine, as a user does without a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.repository import REPOSITORY


def run(script: Path, *arguments: str, processes: int = 2, time_limit: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a script with torchrun.

    Args:
        script: The script.
        *arguments: Its arguments.
        processes: How many; one needs no torchrun.
        time_limit: In seconds; the test fails when it takes longer.

    Returns:
        How the launcher has ended, and what the processes have printed.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    [port] = free_ports(1)
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), *arguments]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=time_limit)
    except BaseException:
        # With the processes that it has started.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
