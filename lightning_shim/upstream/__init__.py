"""Private names of Lightning, PyTorch and Determined that this package relies on."""
