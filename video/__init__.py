"""One video: open and decode it, choose the frames of a clip, transform, re-encode and draw them.

with open_video("clip.mp4") as video:
    clip = video.frames(random_clip(video.info.frames, frames=16, stride=4, rng=np.random.default_rng(0)))
"""

from .augment import Augmentation, ColorJitter, Erasing, RandAugment
from .draw import contact_sheet
from .encode import encode_video
from .errors import VideoError
from .info import VideoInfo
from .opening import BACKENDS, available_backends, open_video, probe, scan_video
from .quality import Quality, measure_quality
from .reader import VideoReader
from .reencode import reencode
from .sampling import clip_views, frames_between, random_clip, segment_clip, segment_views
from .source import Span
from .table import Scan
from .transforms import Box, crop_resize, jitter_crop_box, normalize, random_crop_box, scale_and_shift, spatial_boxes
from .windows import Windows

__all__ = [
    "BACKENDS",
    "Augmentation",
    "Box",
    "ColorJitter",
    "Erasing",
    "Quality",
    "RandAugment",
    "Scan",
    "Span",
    "VideoError",
    "VideoInfo",
    "VideoReader",
    "Windows",
    "available_backends",
    "clip_views",
    "contact_sheet",
    "crop_resize",
    "encode_video",
    "frames_between",
    "jitter_crop_box",
    "measure_quality",
    "normalize",
    "open_video",
    "probe",
    "random_clip",
    "random_crop_box",
    "reencode",
    "scale_and_shift",
    "scan_video",
    "segment_clip",
    "segment_views",
    "spatial_boxes",
]
