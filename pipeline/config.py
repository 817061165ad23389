"""The configuration of a training run: defaults < recipe file (YAML) < command line, checked in one place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro
import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import ConfigError

Config = TypeVar("Config")
Precision = Literal["fp32", "bf16", "fp16"]
Sampling = Literal["dense", "segments"]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Half = Annotated[float, Field(ge=0, le=0.5)]
Share = Annotated[float, Field(ge=0, le=1)]


def _key_values(words: list[str]) -> dict[str, Any]:
    pairs = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise ValueError(f"'{word}' is not of the form KEY=VALUE")
        pairs[key] = yaml.safe_load(value)
    return pairs


KeyValues = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE",
        instance_from_str=_key_values,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda pairs: [f"{key}={value}" for key, value in pairs.items()],
    ),
]


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


@dataclass(frozen=True)
class OptimConfig:
    """How it is trained."""

    epochs: Count = 30
    """Passes over the training videos."""
    lr: Positive = 1e-4
    """Peak learning rate of AdamW."""
    warmup_epochs: NotNegative = 1.0
    """Epochs in which the learning rate rises from zero to its peak; from there it falls to min-lr along a cosine."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end."""
    weight_decay: NotNegative = 0.05
    """Weight decay; biases, norms and position embeddings have none."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of AdamW's two averages."""
    label_smoothing: Share = 0.0
    """Share of the target that is spread over all classes."""
    clip_grad: NotNegative = 1.0
    """Largest norm of the gradient (0: not clipped)."""
    accumulate: Count = 1
    """Batches whose gradients are added up before a step."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class SystemConfig:
    """What it runs on."""

    precision: Precision = "fp32"
    """fp32; bf16 or fp16 mixed precision (parameters stay fp32 under bf16; fp16 needs a GPU)."""
    zero_stage: Literal[0, 1, 2] = 0
    """DeepSpeed ZeRO: 0 nothing, 1 optimiser states, 2 also gradients are divided among the processes."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    timeout: Positive = 1800.0
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
    save_every: Count = 1
    """Epochs from one checkpoint to the next."""
    save_steps: Natural = 0
    """Steps from one checkpoint to the next, besides those of save-every (0: none)."""
    keep: Count = 2
    """Checkpoints that are kept, besides the best one."""
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


RECIPES = Path(__file__).parent.parent / "launch" / "recipes"


def read_recipe(source: str) -> TrainConfig:
    """The configuration of a recipe: a YAML file with the sections of TrainConfig, by path or by the name of one that
    comes with tubelet. Raises ConfigError for a missing file, an unknown key (with the nearest known one) or a value
    that does not fit."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{source}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
        near = difflib.get_close_matches(source, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"--recipe {source}: no such file or recipe. "
            + (f"Did you mean {', '.join(near)}? " if near else "")
            + f"Recipes that come with tubelet: {', '.join(known) or 'none'}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not readable YAML ({' '.join(str(error).split())})") from error
    config = validate(TrainConfig, content, str(path))
    if (config.data.data or "").startswith("pipe:"):  # a recipe goes from hand to hand, and must not run commands
        raise ConfigError(f"{path}: data.data is a command. Only one on the command line is run: give it as --data")
    return config


def validate(schema: type[Config], content: Any, source: str) -> Config:
    """`content` (a mapping) as an instance of the dataclass `schema`. Raises ConfigError with one line per fault."""
    try:
        return TypeAdapter(schema).validate_python(content)
    except ValidationError as error:
        faults = [_fault(schema, fault) for fault in error.errors(include_url=False)]
        raise ConfigError(f"{source}: " + "; ".join(faults)) from None


def _fault(schema: type, fault: Mapping[str, Any]) -> str:
    where = [str(part) for part in fault["loc"]]
    if fault["type"] != "unexpected_keyword_argument":
        got = "" if isinstance(fault["input"], Mapping) else f", got {fault['input']!r}"
        return f"{'.'.join(where)}: {fault['msg'][:1].lower()}{fault['msg'][1:]}{got}"
    section: Any = schema
    for part in where[:-1]:
        section = get_type_hints(section).get(part, section)
    known = [f.name for f in fields(section)] if is_dataclass(section) else []
    near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
    mend = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {'.'.join(where)}; {mend}"


def in_range(config: Config, source: str) -> Config:
    """`config` once more through its schema, for the ranges that a command line does not know. Raises ConfigError."""
    return validate(type(config), asdict(config), source)  # type: ignore[call-overload]  # a dataclass


def checked(config: TrainConfig) -> TrainConfig:
    """`config` with its ranges checked, wherever the values came from, and what a run cannot do without.

    Raises ConfigError.
    """
    config = in_range(config, "the arguments")
    missing = [
        f"--{name} {metavar}"
        for name, metavar, value in (
            ("model", "NAME", config.model.model),
            ("data", "DIR", config.data.data),
            ("out", "RUN", config.run.out),
        )
        if not value
    ]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}. For example: "
            "tubelet prepare --videos FOLDER_OF_CLASSES --out shards && "
            "deepspeed launch/train.py --model timesformer_tiny --data shards --out run"
        )
    low, high = config.data.crop_scale
    if not 0 < low <= high or not 0 < config.data.crop_ratio[0] <= config.data.crop_ratio[1]:
        raise ConfigError("--crop-scale and --crop-ratio each take a smaller and a larger positive number, in order")
    if not 0 < config.augment.erasing_area[0] <= config.augment.erasing_area[1]:
        raise ConfigError("--erasing-area takes a smaller and a larger share, above 0, in order")
    if (config.augment.mixup or config.augment.cutmix) and config.data.batch_size == 1:
        raise ConfigError("--mixup and --cutmix mix the clips of a batch: --batch-size must be 2 or more")
    if not 1 <= config.data.crop_jitter[0] <= config.data.crop_jitter[1]:
        raise ConfigError("--crop-jitter takes a smaller and a larger number, in order, neither below 1")
    if config.data.batch_size % config.data.repeats:
        raise ConfigError(
            f"--batch-size {config.data.batch_size} is not a multiple of --repeats {config.data.repeats}, as it has to "
            "be for whole videos"
        )
    if config.optim.warmup_epochs > config.optim.epochs:
        raise ConfigError(
            f"--warmup-epochs {config.optim.warmup_epochs:g} is longer than --epochs {config.optim.epochs}: "
            "lower the warm-up or train longer"
        )
    return config


def as_yaml(config: TrainConfig) -> str:
    """The configuration as a recipe that gives it again."""
    return yaml.safe_dump(TypeAdapter(type(config)).dump_python(config, mode="json"), sort_keys=False)


def with_model_defaults(config: TrainConfig, frames: int, stride: int, size: int, sampling: Sampling) -> TrainConfig:
    """`config` with the model's own clip wherever it was left open: what is saved is what ran."""
    model = replace(config.model, frames=frames, stride=stride, size=size)
    return replace(config, model=model, data=replace(config.data, sampling=sampling))
