"""Entry point of ``python -m lightning_shim``."""

import sys

from lightning_shim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
