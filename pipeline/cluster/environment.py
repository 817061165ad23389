"""What a run ran on: versions, revision of the code, accelerators; and the same, read by a person: `tubelet doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tubelet.video import available_backends

from ..inputs.clips import lacks_bf16

_PACKAGES = ("tubelet", "torch", "torchvision", "deepspeed", "webdataset", "av", "decord", "torchcodec", "numpy",
             "pyarrow", "safetensors", "tensorboard", "wandb")  # fmt: skip
_EXTRAS = {"torchcodec": "pip install 'tubelet[torchcodec]'", "wandb": "pip install 'tubelet[wandb]'"}


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of the checkout tubelet runs from, with `+changes` when it differs; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    try:
        run = ("git", "-C", str(root))
        revision = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run([*run, "status", "-s", "-uno"], capture_output=True, text=True, check=True, timeout=10)
    except (subprocess.SubprocessError, OSError):
        return None
    return revision.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def describe() -> dict[str, Any]:
    """Versions, revision, machine and command line, for `environment.json` of a run."""
    return {
        "command": sys.argv,
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "accelerators": accelerators(),
        "cuda": torch.version.cuda,
        "git": git_revision(),
        "packages": {name: version_of(name) for name in _PACKAGES},
    }


def accelerators() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def report() -> Iterator[str]:
    """Lines for a person: what is there, what is missing and how to get it."""
    yield f"python {platform.python_version()} on {platform.platform()}, {len(os.sched_getaffinity(0))} cores"
    for name in _PACKAGES:
        version = version_of(name)
        yield f"  {name:12} {version or 'not installed' + (f'; {_EXTRAS[name]}' if name in _EXTRAS else '')}"
    found = accelerators()
    yield f"accelerators: {', '.join(found) if found else 'none found; everything runs on the CPU'}"
    if lacks_bf16(torch.device("cpu")):
        yield "  the CPU has no bf16 instructions: use --precision fp32 on it"
    yield "decoders:"
    for name, version in available_backends().items():
        mend = _EXTRAS.get(name, f"pip install {name}")
        yield f"  {name:12} {version or f'not installed; {mend}'}"
    yield f"git revision: {git_revision() or 'installed as a package, not from a checkout'}"
