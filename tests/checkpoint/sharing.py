"""Shares files of rank 0's machine, which is the working directory: ``sharing.py FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lightning_shim.checkpoint import machines

written: list[str] = []
sys.addaudithook(
    lambda event, arguments: written.append(os.path.basename(arguments[0])) if event == "os.rename" else None
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    machines.CHUNK = 4  # type: ignore[misc]
    disk = Path("/proc/self/cwd")
    rank = torch.distributed.get_rank()
    if rank == 0:
        for name, content in (("long", "0123456789"), ("empty", ""), ("there", "new"), ("file/inside", "no")):
            (disk / name).parent.mkdir(exist_ok=True)
            (disk / name).write_text(content)
    elif os.environ["LOCAL_RANK"] == "0":
        (disk / "there").write_text("old")
        # No folder, so that nothing can be written into it.
        (disk / "file").write_text("")
    torch.distributed.barrier()
    names = ("long", "empty", "there", "file/inside", "missing")
    machines.share([disk / name for name in names], replaces=False)
    first = (disk / "there").read_text()
    torch.distributed.barrier()
    machines.share([disk / name for name in ("long", "there")], replaces=True)
    machines.share([disk / name for name in ("long", "there")], replaces=True)
    found = {
        "long": (disk / "long").read_text(),
        "empty": (disk / "empty").read_text(),
        "there": [first, (disk / "there").read_text()],
        "written": written,
        "rest": sorted(path.name for path in disk.glob("*.part")),
    }
    torch.save(found, f"{sys.argv[1]}/{rank}.pt")
    torch.distributed.destroy_process_group()
