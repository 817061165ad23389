"""What a compiled network takes as given. Importing this imports the compiler: nothing but traced code may."""

from __future__ import annotations

from typing import Any

import torch

from .windows import Windows, kept_windows


@torch.compiler.assume_constant_result
def constant_windows(*arguments: Any) -> Windows:
    """`kept_windows`, which would else be computed anew for every channel of every token."""
    with torch.inference_mode(False):
        return kept_windows(*arguments)
