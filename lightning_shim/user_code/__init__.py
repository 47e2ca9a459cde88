"""The user's classes, read as syntax tree and bytecode; nothing of them is run."""
