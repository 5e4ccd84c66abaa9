"""Modules that an export carries along. They run without this package, and so import nothing of it."""
