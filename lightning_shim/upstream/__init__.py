"""Access to Lightning, PyTorch and Determined beneath their documented interfaces."""
