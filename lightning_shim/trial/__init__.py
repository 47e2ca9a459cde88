"""The trial that Determined runs, and ``fit``, which runs one."""
