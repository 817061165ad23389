"""What is known of a video once it has been scanned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoInfo:
    """Facts of one video, of its best stream where it has several.

    frames: the true number of frames that decode, in presentation order. rate: average frames per second.
    height, width: pixels, after the rotation. codec: FFmpeg's name of it, "h264". rotation: degrees clockwise
    (0, 90, 180, 270) that the reader turns each frame, as the file's display matrix asks. duration: seconds.
    """

    frames: int
    rate: float
    height: int
    width: int
    codec: str
    rotation: int
    duration: float
