"""The contents of a checkpoint, and the way back."""
