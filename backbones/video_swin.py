"""Video Swin (Liu et al., "Video Swin Transformer", CVPR 2022): an image Swin whose windows have a side in time.

Shapes: B clips, a grid (T / 2, H / 4, W / 4) of tokens, C channels.
    clip (B, 3, T, H, W) -> patch_embed (B, T / 2, H / 4, W / 4, C), padded to whole patches
    -> the stages of the image network, windows (8, 7, 7); downsampling halves H and W alone
    -> norm -> mean (B, 8C) -> head (B, num_classes)
"""

from __future__ import annotations

from collections.abc import Sequence

from .image.swin import SIZES, PatchEmbed, Swin, sides
from .lift.windows import lift_windows
from .model import IMAGENET, ClipSpec, Entry, tiny_clip
from .video_swin_weights import VIDEO_SWIN_WEIGHTS


class VideoSwin(Swin):
    """An image Swin over a clip: (B, 3, T, H, W) -> (B, num_classes), for a clip of any length and size.

    window and patch are (T, H, W). Of a grid shorter than the window, the window is as long as the grid; the entries
    of the table of relative positions are then the first ones, as published: right where only T is shorter.
    """

    axes = ("B", "3", "T", "H", "W")
    weight_rules = VIDEO_SWIN_WEIGHTS

    def __init__(
        self,
        num_classes: int,
        patch: Sequence[int] = (2, 4, 4),
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: Sequence[int] = (8, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-5,
        patch_norm: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.5,
        drop_path: float = 0.1,
        init_std: float = 0.02,
        bias_std: float = 0.02,
    ) -> None:
        patch, window = sides("patch", patch, 3), sides("window", window, 3)
        super().__init__(
            num_classes, patch=patch[1:], dim=dim, depths=depths, heads=heads, window=window[1:], mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias, norm_eps=norm_eps, patch_norm=patch_norm, edges="shrink", dropout=dropout,
            attention_dropout=attention_dropout, head_dropout=head_dropout, drop_path=drop_path, init_std=init_std,
        )  # fmt: skip
        self.patch_embed = PatchEmbed(patch, dim, norm_eps, patch_norm, pad=True)
        for block in self.blocks():
            lift_windows(block.attn, window[0])
        self.init_tables(bias_std)


_PAPER = "Liu et al., Video Swin Transformer, CVPR 2022 (arXiv:2106.13230)"


def _entry(letter: str, drop_path: float) -> Entry:
    clip = ClipSpec(frames=32, stride=2, size=224, views=(4, 3), sampling="dense", **IMAGENET)
    summary = f"Video Swin-{letter.upper()}: windows (8, 7, 7), 32 frames of 224 px"
    defaults = {"num_classes": 400, "drop_path": drop_path, **SIZES[letter]}
    return Entry(f"video_swin_{letter}", summary, _PAPER, clip, VideoSwin, defaults)


ENTRIES = (
    *(_entry(letter, rate) for letter, rate in (("t", 0.1), ("s", 0.2), ("b", 0.3), ("l", 0.3))),
    Entry(
        "video_swin_tiny", "Video Swin for a CPU: 8 frames of 48 px, learns motion in a few hundred steps", _PAPER,
        tiny_clip(IMAGENET), VideoSwin,
        {"num_classes": 10, "patch": (2, 6, 6), "dim": 48, "depths": (2, 2), "heads": (2, 4), "window": (4, 4, 4),
         "head_dropout": 0.0, "drop_path": 0.0, "init_std": 0.12, "bias_std": 0.5},
    ),
)  # fmt: skip
