"""What a run on many GPUs asks of disks, cores and network: arithmetic from a few measured numbers, not a measurement.

    python benchmarks/scaling.py --step-ms 180 --clips 16 --decode-ms 24 --clip-kb 300 --parameters 121e6
    python benchmarks/scaling.py --models timesformer video_swin_b --flops-per-s 400e12 ...

step-ms: of one GPU with `clips` clips, from the log of a run on one, or from the model's operations at `flops-per-s`;
decode-ms: CPU time of a clip, from benchmarks/loading.py; clip-kb: bytes that a clip reads, from the shards. Prints its
assumptions and a row per number of GPUs:

    data        bytes a second that all GPUs together read                  clips a second x clip-kb
    cores       for decoding, per GPU                                       clips a second of a GPU x decode-ms
    all-reduce  ms over n GPUs: bytes, and hops of each bucket              2 (n - 1) / n x gradients / bandwidth
                                                                          + buckets x 2 log2 n x latency
    efficiency  step over step and all-reduce; and with --overlap, where the backward pass hides all but the last bucket
    checkpoint  seconds that rank 0 writes, while training goes on          16 bytes a parameter / disk
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from tubelet.backbones import count_cost, create_model

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
BYTES_OF_A_CHECKPOINT = 16  # fp32: published weights, trained weights, two averages of AdamW
BACKWARD = 2 / 3  # of a step
BUCKET = 50_000_000  # parameters at a time, as the trainer sets it


@dataclass(frozen=True)
class Machine:
    """gpus: of a machine; inside, between: bytes a second of a GPU's links; latency: seconds of a hop between machines;
    disk: bytes a second of rank 0's writes."""

    gpus: int
    inside: float
    between: float
    latency: float
    disk: float


@dataclass(frozen=True)
class Load:
    """Of one GPU: clips of a step and its seconds; CPU seconds and bytes of a clip; parameters and bytes of each in an
    all-reduce."""

    clips: int
    step: float
    decode: float
    clip_bytes: float
    parameters: float
    gradient_bytes: int


def all_reduce(load: Load, machine: Machine, gpus: int) -> float:
    """Seconds: each link carries 2 (n - 1) / n of the gradients, and each bucket goes up and down a tree of machines.
    Among machines each GPU has its own link."""
    size = load.parameters * load.gradient_bytes
    link = machine.inside if gpus <= machine.gpus else min(machine.inside, machine.between)
    hops = 2 * math.ceil(math.log2(max(1, gpus / machine.gpus)))
    return 2 * (gpus - 1) / gpus * size / link + buckets(load) * hops * machine.latency


def buckets(load: Load) -> int:
    return math.ceil(load.parameters / BUCKET)


def predicted(load: Load, machine: Machine, gpus: int) -> dict[str, float]:
    """Of a step of `gpus` GPUs: clips/s in all, bytes/s in all, cores per GPU, seconds, share of the ideal speed."""
    exchange = all_reduce(load, machine, gpus)
    left = max(exchange / buckets(load), exchange - BACKWARD * load.step)
    clips_per_s = gpus * load.clips / (load.step + exchange)
    return {
        "clips_per_s": clips_per_s,
        "bytes_per_s": clips_per_s * load.clip_bytes,
        "cores": clips_per_s / gpus * load.decode,
        "all_reduce": exchange,
        "efficiency": load.step / (load.step + exchange),
        "overlapped": load.step / (load.step + left),
        "checkpoint": load.parameters * BYTES_OF_A_CHECKPOINT / machine.disk,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="*", default=["timesformer", "vivit_b", "video_swin_b", "uniformer_s", "i3d_r50"]
    )
    parser.add_argument("--parameters", type=float, help="instead of --models: of one network, with --step-ms")
    parser.add_argument("--step-ms", type=float, help="measured step of one GPU (default: operations over flops-per-s)")
    parser.add_argument("--flops-per-s", type=float, default=350e12, help="operations a second that a GPU reaches")
    parser.add_argument("--clips", type=int, default=16, help="of a GPU's step")
    parser.add_argument("--decode-ms", type=float, default=24.0, help="CPU time of a clip")
    parser.add_argument("--clip-kb", type=float, default=300.0, help="read for a clip")
    parser.add_argument("--gradient-bytes", type=int, default=4, help="of a parameter in an all-reduce")
    parser.add_argument("--gpus-per-machine", type=int, default=8)
    parser.add_argument("--inside-gbs", type=float, default=300.0, help="GB/s of a GPU to the others of its machine")
    parser.add_argument("--between-gbs", type=float, default=40.0, help="GB/s of a GPU to other machines")
    parser.add_argument("--latency-us", type=float, default=15.0, help="of a hop between machines")
    parser.add_argument("--disk-gbs", type=float, default=1.0, help="GB/s that one process writes")
    given = parser.parse_args()
    links = given.inside_gbs * 1e9, given.between_gbs * 1e9, given.latency_us / 1e6
    machine = Machine(given.gpus_per_machine, *links, given.disk_gbs * 1e9)
    print("assumed: " + ", ".join(f"{name}={value}" for name, value in vars(given).items() if value is not None))
    print(
        f"assumed: {BACKWARD:.2f} of a step is backward pass; all GPUs take as long; each has a network link of its own"
    )
    print("and decodes, reads and saves beside its steps, if it gets what the columns say\n")
    print(
        "| network | GPUs | clips/s | data GB/s | cores a GPU | all-reduce ms | efficiency | --overlap | checkpoint s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, load in loads(given):
        for gpus in GPUS:
            row = predicted(load, machine, gpus)
            print(
                f"| {name} | {gpus} | {row['clips_per_s']:.0f} | {row['bytes_per_s'] / 1e9:.2f} | {row['cores']:.1f} | "
                f"{1000 * row['all_reduce']:.1f} | {row['efficiency']:.1%} | {row['overlapped']:.1%} | "
                f"{row['checkpoint']:.1f} |"
            )


def loads(given: argparse.Namespace) -> list[tuple[str, Load]]:
    decode, clip_bytes = given.decode_ms / 1000, given.clip_kb * 1000
    if given.parameters:
        if not given.step_ms:
            raise SystemExit("error: --parameters wants --step-ms with it")
        load = Load(given.clips, given.step_ms / 1000, decode, clip_bytes, given.parameters, given.gradient_bytes)
        return [("given", load)]
    found = []
    for name in given.models:
        clip = (model := create_model(name)).clip
        parameters, macs = count_cost(model, (1, 3, clip.frames, clip.size, clip.size))
        step = given.step_ms / 1000 if given.step_ms else 6 * macs * given.clips / given.flops_per_s
        found.append((name, Load(given.clips, step, decode, clip_bytes, parameters, given.gradient_bytes)))
    return found


if __name__ == "__main__":
    main()
