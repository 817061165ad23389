"""A checkpoint without a training, and a long video without its encoding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import torch

from tubelet.backbones import Model, create_model, save_model
from tubelet.datasets import checksum
from tubelet.pipeline.checkpoints.state import WEIGHTS_FILE, Clip, State
from tubelet.video import encode_video


def tiny(classes: int = 4, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return create_model("timesformer_tiny", num_classes=classes, dim=32, depth=2, heads=2).eval()


def save_run(model: Model, folder: Path, classes: Sequence[str] = ("a", "b", "c", "d")) -> Path:
    """A checkpoint of `model` as training writes it, as far as its weights and what they are go."""
    save_model(model, folder)
    files = {WEIGHTS_FILE: checksum(folder / WEIGHTS_FILE)}
    state = State(1, 0, 0, model.config, list(classes), Clip.of(model.clip), files=files)
    (folder / "checkpoint.json").write_text(json.dumps(asdict(state)))
    return folder


def long_video(path: Path, minutes: int, side: int = 64, rate: int = 25) -> Path:
    """Ten seconds of drifting noise, encoded once and repeated packet by packet."""
    seconds = 10
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(noise, number, 1) for number in range(seconds * rate)])
    piece = path.with_name(f"piece-{path.name}")
    encode_video(piece, frames, rate, options={"g": str(seconds * rate), "bf": "0"})
    with av.open(str(piece)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        packets = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in source.demux(stream) if p.size]
        out = target.add_stream_from_template(stream)
        length = sum(duration for *_, duration, _ in packets)
        for repeat in range(minutes * 60 // seconds):
            for data, pts, dts, duration, key in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts = pts + repeat * length, dts + repeat * length
                packet.duration, packet.time_base, packet.stream = duration, stream.time_base, out
                packet.is_keyframe = key
                target.mux(packet)
    piece.unlink()
    return path
