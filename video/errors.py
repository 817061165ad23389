"""The exceptions of this folder; users see only VideoError."""


class VideoError(Exception):
    """A video that cannot be read, or not wholly; as text, "name: cause". It pickles, so it crosses processes.

    `name` says which video (its path, or the name given with its bytes) and `cause` what is wrong with it.
    """

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name, cause)
        self.name = name
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}"


class Unsuited(Exception):
    """Why a decoder is not for this file, though PyAV may be."""
