"""Parameters and multiply-accumulates of the published sizes: millions within 1 %, billions within 2 %."""

import pytest
import torch

from tubelet.backbones import count_cost, create_model, model_entry

MMACTION = {"stem_stride_t": 2, "pool_stride_t": 2}
VMZ = {"midplanes": "conv"}
# name, clip (frames, size), arguments, parameters in millions, multiply-accumulates in billions
TABLE = [
    ("timesformer", (8, 224), {}, 121.57, 195.8),
    ("timesformer_hr", (16, 448), {}, 122.02, 1702.7),
    ("timesformer_l", (96, 224), {}, 121.63, 2379.9),
    ("timesformer", (8, 224), {"attention": "joint"}, 86.11, 179.6),
    ("timesformer", (8, 224), {"attention": "space"}, 86.11, 140.5),
    ("vivit_b", (32, 224), {"variant": "joint"}, 88.95, 451.5),
    ("vivit_b", (32, 224), {}, 115.06, 283.3),
    ("vivit_b", (32, 224), {"variant": "factorised_attention"}, 117.32, 371.1),
    ("vivit_b", (32, 224), {"variant": "factorised_heads"}, 88.95, 276.2),
    ("vivit_l", (32, 224), {"variant": "joint"}, 307.5, 1436),
    ("vivit_l", (32, 320), {"variant": "joint"}, 310.85, 3957),
    ("video_swin_t", (32, 224), {}, 28.16, 87.8),
    ("video_swin_s", (32, 224), {}, 49.82, 165.7),
    ("video_swin_b", (32, 224), {}, 88.05, 281.3),
    ("video_swin_l", (32, 224), {}, 196.95, 603.3),
    ("video_swin_b", (32, 224), {"window": (16, 7, 7)}, 88.83, 320.4),
    ("video_swin_l", (32, 384), {"window": (8, 12, 12)}, 200.0, 2106),
    ("xvit", (8, 224), {}, 93.79, 140.6),
    ("xvit", (16, 224), {}, 93.79, 281.1),
    ("uniformer_s", (16, 224), {}, 21.40, 41.7),
    ("uniformer_b", (16, 224), {}, 49.81, 96.6),
    ("uniformer_b", (32, 224), {}, 49.81, 258.3),
    ("i3d", (64, 224), {}, 12.70, 111.2),
    ("i3d_r50", (8, 256), {}, 28.04, 37.1),
    ("i3d_r50", (32, 256), MMACTION, 28.04, 43.3),
    ("slow_r50", (8, 256), {}, 32.45, 54.5),
    ("r2plus1d_34", (16, 112), {}, 61.83, 75.2),
    ("r2plus1d_34", (16, 112), VMZ, 63.70, 76.2),
    ("r2plus1d_34", (32, 112), VMZ, 63.70, 152.4),
    ("r2plus1d_18", (16, 112), {}, 31.51, 40.5),
    ("r3d_18", (16, 112), {}, 33.37, 40.7),
    ("ip_csn_152", (32, 256), {}, 33.02, 108.8),
    ("ip_csn_152", (32, 224), {}, 33.02, 83.3),
    ("ir_csn_152", (32, 256), {}, 29.70, 96.7),
    ("ir_csn_152", (32, 224), {}, 29.70, 74.1),
    ("c3d", (16, 112), {"num_classes": 101}, 78.41, 38.6),
    ("p3d_199", (16, 160), {}, 66.49, 18.4),
    ("r3d_18_hara", (16, 112), {"num_classes": 700}, 33.56, 8.3),
    ("r3d_50_hara", (16, 112), {"num_classes": 700}, 47.63, 10.1),
    ("vit_b_16", (1, 224), {}, 86.57, 17.6),
    ("vit_l_16", (1, 224), {}, 304.33, 61.6),
    ("deit3_b_16", (1, 224), {}, 86.59, 17.6),
    ("resnet_50", (1, 224), {}, 25.56, 4.09),
    ("swin_t", (1, 224), {}, 28.29, 4.49),
    ("googlenet", (1, 224), {}, 6.62, 1.50),
]


@pytest.mark.parametrize(
    ("name", "clip", "arguments", "parameters", "gmacs"),
    TABLE,
    ids=[f"{name} {frames}x{size} {arguments or ''}" for name, (frames, size), arguments, *_ in TABLE],
)
def test_sizes_are_those_of_the_papers(
    name: str, clip: tuple[int, int], arguments: dict, parameters: float, gmacs: float
) -> None:
    frames, size = clip
    video = {"frames": frames} if model_entry(name).kind == "video" else {}
    with torch.device("meta"):
        model = create_model(name, size=size, **video, **arguments)
    counted, macs = count_cost(model, (1, 3, *video.values(), size, size))
    assert counted / 1e6 == pytest.approx(parameters, rel=0.01)
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.02)
