"""What a person sees of a training, in a terminal and in a log."""
