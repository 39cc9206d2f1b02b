"""The version, stated here and nowhere else: the build reads it, and reports hold it."""

__version__ = "0.1.0"
