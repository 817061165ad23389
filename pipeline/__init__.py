"""What runs: configuration, training on DeepSpeed, checkpoints, evaluation, embedding, logs and pictures.

from tubelet.pipeline import Embedder
Embedder("run").predict("video.mp4")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedding.embedder import Embedder

__all__ = ["Embedder"]


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is asked for: commands that need no network start without one."""
    if name != "Embedder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .embedding.embedder import Embedder

    return Embedder
