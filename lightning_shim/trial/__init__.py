"""The trial as Determined sees it."""
