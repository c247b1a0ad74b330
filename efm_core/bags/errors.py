"""What can go wrong with a bag."""

from __future__ import annotations


class BagError(ValueError):
    """A bag or an episode that cannot be read or was not written whole; says which and why."""


class DiskFullError(OSError):
    """Too little room to begin an episode: below the reserve nothing new starts."""
