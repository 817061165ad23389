"""The configuration of a training run: a dataclass per section. Field docstrings are the help text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from .types import Count, Factors, Half, KeyValues, Natural, NotNegative, Positive, Precision, Sampling, Share, Views


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    model: str = ""
    """Name of the model, such as timesformer; `tubelet models` lists them."""
    weights: Path | None = None
    """Checkpoint to start from, in any publisher's layout of the network or of its image network, or the id of
    published weights (`tubelet models --weights` lists them)."""
    model_args: KeyValues = field(default_factory=dict)
    """Architecture arguments of the model, such as depth=4 drop_path=0.1."""
    frames: Count | None = None
    """Frames of a clip (default: the model's own)."""
    stride: Count | None = None
    """Frames of the video from one frame of a clip to the next (default: the model's own)."""
    size: Count | None = None
    """Side of the square frames of a clip, in pixels (default: the model's own)."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on."""

    data: str | None = None
    """Folder that `tubelet prepare` made, here or at a URL; or tars of any origin by name, with {000..012} and *; or
    `pipe:` and a command that puts out a tar."""
    cache: Path | None = None
    """Folder for shards that are not on this machine (default: $TUBELET_HOME/shards or ~/.cache/tubelet/shards)."""
    batch_size: Count = 8
    """Clips of one process at a time; a training step has batch-size x processes x accumulate of them."""
    workers: Natural | None = None
    """Processes that read and decode, for each training process (default: its share of the cores, at most 8). 0: it
    decodes itself, and cannot end a decoder that hangs."""
    sampling: Sampling | None = None
    """Frames of a clip: dense (frames x stride at a random start) or one from each of equal segments, as for SSV2
    (default: the model's own)."""
    crop: Literal["resized", "jitter"] = "resized"
    """Training crops: resized (of random area and aspect ratio, by crop-scale and crop-ratio) or jitter (a square of
    the frame at a random scale, by crop-jitter)."""
    crop_scale: tuple[Share, Share] = (0.5, 1.0)
    """Smallest and largest share of a frame's area that a resized crop keeps."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Smallest and largest aspect ratio of a resized crop."""
    crop_jitter: tuple[float, float] = (1.1429, 1.4286)
    """Smallest and largest short side of the frame, in sides of a jitter crop: 256 and 320 pixels for one of 224."""
    repeats: Count = 1
    """Crops of each clip, from one decode, side by side in a batch; batch-size counts them all, and an epoch has as
    many times the steps."""
    balance: Share = 0.0
    """How far rare classes are made up for: a class of n videos is seen in proportion to n^(1 - balance). 0: as often
    as it has videos, 0.5: by the square root, 1: all classes alike. An epoch keeps its length."""
    class_weights: Factors = field(default_factory=dict)
    """Classes, by name, that are to be seen this many times as often as `balance` has them; 0 leaves one out."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """Which library decodes; a file it is known to read wrongly goes to pyav all the same."""
    bad_samples: Literal["replace", "skip", "stop"] = "replace"
    """What becomes of a video that cannot be read: replace (by another, which seed, epoch and position choose), skip
    (its batch is the smaller by it), stop (the run ends). Either way quarantine.jsonl in the run names it."""
    max_faults: Share = 0.1
    """Largest share of bad videos among the last thousand samples, above which the run ends."""
    clip_deadline: Positive = 30.0
    """Seconds a worker has for a clip; a decoder that takes longer is ended, and its video counts as bad."""
    quarantine: Path | None = None
    """The quarantine.jsonl of another run on the same data: its videos are not tried again."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def _rand_augment(text: str) -> str:
    from tubelet.video import RandAugment  # takes torch along, which --help can do without

    RandAugment.parse(text)
    return text


@dataclass(frozen=True)
class AugmentConfig:
    """How training clips are changed, all frames of a clip alike, after they are cropped."""

    flip: Share = 0.5
    """Probability of mirroring a clip left to right."""
    flip_pairs: str = "auto"
    """Classes that mirroring turns into each other: auto (found by the words left and right, clockwise and
    anticlockwise; one whose opposite is not there is never mirrored), none, or a YAML file: a list of pairs
    [class, class] and of classes never to be mirrored."""
    rand_augment: Annotated[str, AfterValidator(_rand_augment)] | None = None
    """RandAugment, such as m7-n4-mstd0.5-inc1: magnitude (0 to 10), operations, deviation of the magnitude."""
    color_jitter: tuple[NotNegative, NotNegative, NotNegative, Half] = (0.0, 0.0, 0.0, 0.0)
    """Brightness, contrast and saturation change by a factor of 1 - x to 1 + x each, hue by -x to x of its circle."""
    gray: Share = 0.0
    """Probability of greyscale."""
    erasing: Share = 0.0
    """Probability of erasing boxes, the same in all frames."""
    erasing_mode: Literal["pixel", "const"] = "pixel"
    """What is there instead: noise, or the mean colour."""
    erasing_count: Count = 1
    """Boxes of a clip."""
    erasing_area: tuple[Share, Share] = (0.02, 0.3333)
    """Smallest and largest share of the frame that they take together."""
    drop_frames: Share = 0.0
    """Probability that a frame of a clip is dropped and the last one kept shown instead."""
    mixup: NotNegative = 0.0
    """Alpha of mixup, which blends clips of a batch and their labels (0: off)."""
    cutmix: NotNegative = 0.0
    """Alpha of CutMix, which pastes a box of one clip into another (0: off)."""
    mix_prob: Share = 1.0
    """Probability of mixup or CutMix where either is on."""
    mix_switch: Share = 0.5
    """Probability that it is CutMix where both are on."""
    mix_per: Literal["batch", "sample"] = "batch"
    """Whether the clips of a batch are mixed in one way or each in its own."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def _tuned(text: str) -> str:
    if text not in ("full", "head") and not text.isdecimal():
        raise ValueError("is full, head or a number of layers")
    return text


@dataclass(frozen=True)
class OptimConfig:
    """How it is trained."""

    epochs: Count = 30
    """Passes over the training videos."""
    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    """AdamW, SGD with momentum, or LAMB (for very large batches)."""
    lr: Positive = 1e-4
    """Peak learning rate."""
    lr_batch: Count | None = None
    """Clips of a step that lr is meant for; with more or fewer it is scaled in proportion (default: lr as it is)."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """After the warm-up: half a cosine down to min-lr, times step-factor at each of step-epochs, or as it is."""
    warmup_epochs: NotNegative = 1.0
    """Epochs in which the learning rate rises to its peak, step by step."""
    warmup_start: Share = 0.0
    """Share of the peak that the warm-up begins at."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end of the cosine."""
    step_epochs: tuple[Positive, ...] = ()
    """Epochs at which the step schedule lowers the rate."""
    step_factor: Share = 0.1
    """What the step schedule multiplies the rate by."""
    weight_decay: NotNegative = 0.05
    """Weight decay; biases and position embeddings have none."""
    norm_decay: bool = False
    """Weight decay on the scales and shifts of norms and on biases as well."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each layer to the one before it, the head's being 1."""
    head_lr: Positive = 1.0
    """Factor of the head's learning rate over that of the layers before it."""
    tune: Annotated[str, AfterValidator(_tuned)] = "full"
    """What is trained: full, head, or a number: of the last layers, besides the head. The rest stays as it is, with
    the statistics of its norms."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of the two averages of AdamW and LAMB."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Cross entropy; or bce, a yes or no for each class, as several labels a video want it."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread over all classes."""
    clip_grad: NotNegative = 1.0
    """Largest norm of the gradient (0: not clipped)."""
    accumulate: Count = 1
    """Batches whose gradients are added up before a step."""
    ema: Share = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated and shared (0: none)."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class SystemConfig:
    """What it runs on."""

    precision: Precision = "fp32"
    """fp32; bf16 or fp16 mixed precision (parameters stay fp32 under bf16; fp16 needs a GPU)."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 0 nothing, 1 optimiser states, 2 also gradients, 3 also parameters are divided among the
    processes."""
    offload: bool = False
    """Keep the optimiser's states in the memory of the host (ZeRO 1 to 3)."""
    overlap: bool = False
    """Exchange gradients while the backward pass goes on (ZeRO 1 to 3). Off, since it has given wrong gradients in some
    releases of DeepSpeed."""
    compile: bool = False
    """torch.compile the network: minutes at the start, faster steps on a GPU."""
    deepspeed_config: Path | None = None
    """JSON file with more of DeepSpeed's own settings. What it says against the arguments here is an error."""
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    """Statistics of BatchNorm: of each process's batch, of all processes' (GPUs only), or those it starts with."""
    precise_bn: Natural = 0
    """Batches over which BatchNorm's statistics are taken anew before each evaluation and checkpoint (0: not)."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    timeout: Positive = 600.0
    """Seconds the processes wait for each other before they give up."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class RunConfig:
    """What it leaves behind."""

    recipe: str | None = None
    """YAML file with the sections of this list (model, data, augment, optim, system, run), or the name of a recipe that
    comes with tubelet; arguments given here win over it."""
    out: Path | None = None
    """Folder of the run: checkpoints, logs, pictures. `--checkpoint` of the other commands takes it."""
    resume: Literal["no", "auto"] = "no"
    """auto: go on from the last checkpoint in --out, or start when there is none."""
    seed: Natural = 0
    """Decides the initial weights, the order of videos, their clips and crops, and dropout."""
    eval_every: Natural = 1
    """Epochs from one evaluation on the validation split to the next (0: never)."""
    views: Views | None = None
    """Views of a video that `tubelet evaluate` takes of this run, temporal x spatial, such as 4x3 (default: as the
    model or its weights were published). While it trains, the run is evaluated on one."""
    view_size: Count | None = None
    """Side of those in pixels, for networks that take any (default: size)."""
    save_every: Count = 1
    """Epochs from one checkpoint to the next."""
    save_steps: Natural = 0
    """Steps from one checkpoint to the next, besides those of save-every (0: none)."""
    keep: Count = 2
    """Checkpoints that are kept, besides the best one."""
    keep_hours: NotNegative = 0.0
    """Hours from one checkpoint that is kept for good to the next (0: none is)."""
    max_nonfinite: Natural = 10
    """Steps in a row whose loss or gradient is no number that are left out, before the run ends."""
    profile: bool = False
    """Write a trace of steps 10 to 20, for chrome://tracing or Perfetto, to profile/ in the run."""
    log_every: Count = 10
    """Steps from one line of the log to the next."""
    wandb: str | None = None
    """Weights & Biases project to log to as well (needs `pip install tubelet[wandb]`)."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class TrainConfig:
    """A training run, whole."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    run: RunConfig = field(default_factory=RunConfig)

    __pydantic_config__ = ConfigDict(extra="forbid")


def with_model_defaults(config: TrainConfig, frames: int, stride: int, size: int, sampling: Sampling) -> TrainConfig:
    """`config` with the model's own clip wherever it was left open: what is saved is what ran."""
    model = replace(config.model, frames=frames, stride=stride, size=size)
    return replace(config, model=model, data=replace(config.data, sampling=sampling))
