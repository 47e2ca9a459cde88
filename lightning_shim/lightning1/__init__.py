"""Arguments and attributes that Lightning 2 removed, for modules written for Lightning 1.x."""
