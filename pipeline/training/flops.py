"""What a device can do, for how much of it is used."""

from __future__ import annotations

import torch

# Dense multiplications and additions a second, by the words in the name of the device, from the makers' data sheets:
# with bf16 or fp16, and with fp32 as torch computes it by default, without TF32.
_PEAKS = {
    "B200": (2250e12, 75e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "A10": (125e12, 31.2e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
    "RTX 4090": (165e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12),
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second at best, or None where it is not known: of other devices, and of CPUs."""
    if device.type != "cuda":
        return None
    words = {*torch.cuda.get_device_name(device).replace("-", " ").split()}
    known = (peaks for name, peaks in _PEAKS.items() if words.issuperset(name.split()))
    half, full = next(known, (None, None))
    return full if precision == "fp32" else half
