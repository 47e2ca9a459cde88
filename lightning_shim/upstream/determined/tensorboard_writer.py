"""Determined's TensorBoard writer, created without what others need to be imported for it.

It relies on a private name of Determined, and on an import of TensorBoard's:

- ``PyTorchTrialContext._tbd_writer``: the TensorBoard writer, or None before it is first asked for.
- ``tensorboard.compat.tensorflow_stub.io.gfile`` imports boto3, and uses it for paths that begin with ``s3://``.
"""

from __future__ import annotations

from typing import Any

from lightning_shim.upstream.determined.context import is_on_cluster
from lightning_shim.upstream.imports import load_when_used


def spare_imports(context: Any) -> None:
    """Has a context create its TensorBoard writer without setuptools, and off-cluster without boto3.

    Determined imports ``distutils`` for torch 1.9 and 1.10, and with it comes setuptools. Either of them takes longer
    to import than all of Determined. On a cluster checkpoints may be in S3, and boto3 is needed anyway.
    """

    def get_tensorboard_writer() -> Any:
        if context._tbd_writer is None:
            if not is_on_cluster():
                load_when_used("boto3")
            from torch.utils.tensorboard import SummaryWriter

            context._tbd_writer = SummaryWriter(context.get_tensorboard_path())
        return context._tbd_writer

    context.get_tensorboard_writer = get_tensorboard_writer
