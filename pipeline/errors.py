"""What a user is told when a command is asked for something it cannot do."""

from __future__ import annotations


class ConfigError(ValueError):
    """An argument, a recipe or a combination of them that cannot work: one message with the cause and the mend."""


class Stopped(Exception):
    """A run that was asked to end and has saved: it goes on with --resume auto."""


class RunError(RuntimeError):
    """A run that cannot start or go on: a checkpoint that does not fit, a loss that is no number."""


def first_line(error: BaseException) -> str:
    """What another library says went wrong, without what it says after that."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
