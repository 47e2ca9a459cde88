"""Arguments and attributes of Lightning 1.x."""
