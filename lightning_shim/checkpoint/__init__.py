"""The contents of a checkpoint, and how they are restored."""
