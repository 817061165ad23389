"""Our models beside the reference packages: same weights, same clip, in one run; speed as a ratio, memory in bytes.

    python benchmarks/models.py                                  # every model, forward, fp32 and bf16
    python benchmarks/models.py --passes train --models video_swin_t r2plus1d_18
    python benchmarks/models.py --compile --device cuda

Peers are torchvision, Hugging Face transformers and PyTorchVideo; one that is not installed is skipped, and the row
says so. Prints a Markdown table. Each row alternates theirs, ours and a square matrix product of the same dtype,
`--rounds` times:

    ms      of ours, the median
    rate    multiply-accumulates a second of ours, and beside the peer's name of theirs, over those of the product
    ratio   their time over ours (above 1: ours is faster), the median, and its quartiles
    memory  peak of one training step of ours, and theirs over ours (only `--passes train`)
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands set it

import argparse
import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.backbones import count_cost, create_model, load_weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrix product


def timesformer() -> nn.Module:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    return FramesFirst(TimesformerForVideoClassification(TimesformerConfig(num_labels=400)))


def vivit() -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    return FramesFirst(VivitForVideoClassification(VivitConfig(num_labels=400, num_frames=16)))


def torchvision_video(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import video
        from torchvision.ops import StochasticDepth

        network = getattr(video, name)()
        for module in network.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0  # swin3d_t takes no argument for it
        return network

    return build


def pytorchvideo(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from pytorchvideo.models import hub

        network = getattr(hub, name)(pretrained=False)
        for module in list(network.modules()):
            for key, child in module.named_children():
                if isinstance(child, nn.AvgPool3d):
                    setattr(module, key, PoolInFloat(child))
        return network

    return build


class PoolInFloat(nn.Module):
    """An average pool in fp32: PyTorch has none in bf16 on a CPU, where the peer would not run at all."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x.float()).to(x.dtype)


class FramesFirst(nn.Module):
    """A Hugging Face video model, which takes (B, T, C, H, W), behind our face."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        return self.network(clip.transpose(1, 2)).logits


@dataclass(frozen=True)
class Case:
    """A model of ours, the clip (frames, size), and the network that computes the same elsewhere."""

    name: str
    frames: int
    size: int
    peer: str = ""
    build_peer: Callable[[], nn.Module] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("timesformer", 8, 224, "transformers", timesformer, {"drop_path": 0.0}),
    Case("vivit_b", 16, 224, "transformers", vivit, {"variant": "joint", "drop_path": 0.0}),
    Case("video_swin_t", 16, 224, "torchvision", torchvision_video("swin3d_t"), {"drop_path": 0.0}),
    Case("r2plus1d_18", 16, 112, "torchvision", torchvision_video("r2plus1d_18")),
    Case("r3d_18", 16, 112, "torchvision", torchvision_video("r3d_18")),
    Case("mc3_18", 16, 112, "torchvision", torchvision_video("mc3_18")),
    Case("ir_csn_101", 32, 224, "PyTorchVideo", pytorchvideo("csn_r101"), {"norm_eps": 1e-5}),
    Case("slow_r50", 8, 224, "PyTorchVideo", pytorchvideo("slow_r50")),
    Case("i3d_r50", 8, 224, "PyTorchVideo", pytorchvideo("i3d_r50")),
    Case("uniformer_s", 16, 224, arguments={"drop_path": 0.0}),
    Case("xvit", 8, 224, arguments={"segments": 8}),
    Case("i3d", 32, 224),
    Case("ip_csn_50", 16, 224),
    Case("c3d", 16, 112),
    Case("p3d_199", 16, 160),
)


@dataclass
class Bench:
    device: str
    dtype: torch.dtype
    compile: bool
    rounds: int

    def seconds(self, call: Callable[[], object]) -> float:
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def product(self) -> Callable[[], object]:
        side = SIDE[self.device]
        a, b = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        return lambda: a @ b

    def step(self, network: nn.Module, clip: Tensor, passes: str) -> Callable[[], object]:
        network.train(passes == "train")
        run = torch.compile(network) if self.compile else network

        def forward() -> None:
            with torch.inference_mode():
                run(clip)

        def train() -> None:
            network.zero_grad(set_to_none=True)
            run(clip).float().square().mean().backward()

        return train if passes == "train" else forward

    def peak(self, step: Callable[[], object]) -> int:
        """Bytes the allocator held at most of what it gave out during `step`."""
        if self.device == "cuda":
            self.wait()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            self.wait()
            return torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step()
        live: dict[int, int] = {}
        held = peak = 0
        for event in memory_events(profile.profiler.kineto_results.experimental_event_tree()):
            if event.alloc_size > 0:
                live[event.ptr] = event.alloc_size
                held += event.alloc_size
                peak = max(peak, held)
            else:  # what was not taken during the step is not the step's, and torch's size of it is a guess
                held -= live.pop(event.ptr, 0)
        return peak


def memory_events(tree: list[Any]) -> list[Any]:
    """What was allocated and freed, in the order of time."""
    found, waiting = [], list(tree)
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.name == "[memory]":
            found.append((event.start_time_ns, event.extra_fields))
    return [fields for _, fields in sorted(found, key=lambda pair: pair[0])]


def peer_of(case: Case, ours: nn.Module) -> tuple[nn.Module | None, str]:
    """The reference with random weights, which ours is given too, or why there is none."""
    if case.build_peer is None:
        return None, "no package to compare with"
    try:
        theirs = case.build_peer()
    except ImportError as error:
        return None, f"{case.peer} is not installed ({error})"
    network = theirs.network if isinstance(theirs, FramesFirst) else theirs
    load_weights(ours, network.state_dict())
    return theirs, case.peer


def compare(case: Case, bench: Bench, passes: str) -> str:
    ours = create_model(case.name, num_classes=400, frames=case.frames, size=case.size, **case.arguments)
    shape = (1, 3, case.frames, case.size, case.size)
    macs = count_cost(ours, shape)[1] * (3 if passes == "train" else 1)
    theirs, why = peer_of(case, ours)
    clip = torch.randn(shape).to(bench.device, bench.dtype)
    networks = [network.to(bench.device, bench.dtype) for network in (theirs, ours) if network is not None]
    if theirs is not None and bench.dtype == torch.float32:
        with torch.inference_mode():
            expected, got = (network.eval()(clip) for network in networks)
        assert (got - expected).abs().max() <= 1e-3 * expected.abs().max(), f"{case.name} computes something else"
    steps = [bench.step(network, clip, passes) for network in networks] + [bench.product()]
    for step in steps:
        step()
    times = [[bench.seconds(step) for step in steps] for _ in range(bench.rounds)]
    flops = SIDE[bench.device] ** 3

    def rate(column: int) -> float:
        return statistics.median(macs / row[column] / (flops / row[-1]) for row in times)

    cells = [case.name, f"{case.frames} x {case.size}", passes, str(bench.dtype)[6:]]
    cells += [f"{statistics.median(row[-2] for row in times) * 1e3:.0f}", f"{rate(-2):.2f}"]
    if theirs is None:
        return row_of([*cells, why, "", "", ""])
    low, middle, high = statistics.quantiles([row[0] / row[1] for row in times], n=4)
    cells += [f"{case.peer} {rate(0):.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    if passes == "train":
        for network in networks:
            network.zero_grad(set_to_none=True)  # those of the last step would count as if they had been there before
        peaks = [bench.peak(step) for step in steps[:2]]
        return row_of([*cells, f"{peaks[1] / 2**20:.0f} MiB, {peaks[0] / peaks[1]:.2f}"])
    return row_of([*cells, ""])


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Reference packages warn at import about things that do not matter here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[case.name for case in CASES], help="only these")
    parser.add_argument("--passes", nargs="+", choices=["forward", "train"], default=["forward"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--device", choices=SIDE, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile both sides")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: quartiles need 2 or more")
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {where}, {'compiled' if options.compile else 'eager'}")
    dtypes = list(options.dtypes)
    if "bf16" in dtypes and options.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.remove("bf16")
        print("bf16 is left out: this CPU has no instructions for it")
    heading = ["model", "clip", "pass", "dtype", "ms", "rate", "peer, rate", "ratio", "quartiles", "memory, ratio"]
    print(row_of(heading), row_of(["---"] * len(heading)), sep="\n")
    for case in (case for case in CASES if case.name in options.models):
        for passes in options.passes:
            for dtype in dtypes:
                torch.manual_seed(0)
                with quiet():
                    line = compare(case, Bench(options.device, DTYPES[dtype], options.compile, options.rounds), passes)
                print(line, flush=True)


if __name__ == "__main__":
    main()
