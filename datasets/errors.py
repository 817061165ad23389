"""What a user is told when data is not as it should be."""

from __future__ import annotations


class DataError(ValueError):
    """A folder, list, shard or dataset that cannot be used: one message naming the thing, the cause and the mend."""
