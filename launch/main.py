"""What the commands share: reading arguments, one clear message for what goes wrong, and `tubelet` itself.

A command run as a file (`deepspeed launch/train.py`, `python launch/train.py`) gets this folder first on sys.path, and
DeepSpeed's multi-node runner puts the repository's root on PYTHONPATH. Our folders would then hide other packages: a
bare `datasets` is Hugging Face's. Importing this module takes both off the path.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

_LAUNCH = Path(__file__).resolve().parent
_HIDING = (_LAUNCH, _LAUNCH.parent)
if _LAUNCH.parent.name != "tubelet":  # in a checkout; an installed tubelet has nothing of that kind beside it
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() not in _HIDING]

# Decoding processes and the threads of a CPU's matrix products share the same cores. Threads that spin while they wait,
# which is the default, then stand in the way of what they wait for. Read by the OpenMP library when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

COMMANDS = {
    "prepare": "make a dataset of WebDataset shards from a folder of classes or from label files",
    "index": "indices, and a card, for tars that other tools made or an older tubelet prepared",
    "check": "verify a dataset: checksums, indices, and that its videos decode",
    "browse": "a picture or a page of a dataset's clips as the model sees them, per class",
    "train": "train or fine-tune a model on a dataset",
    "evaluate": "top-1 and top-5 of a trained model, per clip and per video",
    "report": "one page of a run: curves, confusion matrix, best and worst videos, configuration",
    "embed": "embeddings of shards, folders, lists or long videos as Parquet",
    "search": "the nearest of embedded clips to a video",
    "probe": "how well embeddings tell the classes apart: linear probe and nearest neighbours",
    "explain": "where and when a network saw what it scored, over the video; or its first filters",
    "models": "the table of models with parameters and GMACs, or of published weights",
    "export": "a trained model as checked weights, .pt2 or ONNX, with a model card; to the Hugging Face Hub",
    "convert": "published weights of any format as model.safetensors and config.json",
    "doctor": "versions, accelerators and decoders found, what is missing and how to get it",
    "demo": "make the demo set: encoded videos that only time tells apart",
}

Config = TypeVar("Config")

_PATIENCE = 10.0  # seconds

REQUEUE = 75
"""Exit code of a run that was asked to end, has saved, and wants to go on: EX_TEMPFAIL of sysexits.h."""


def parse(schema: type[Config], command: str, description: str, argv: Sequence[str], default: Any = None) -> Config:
    """`argv` as the dataclass `schema`; `none` takes away the value of an argument that may be left out. An unknown
    argument ends the program with its nearest neighbours; a value out of range is a ConfigError."""
    import tyro

    from tubelet.pipeline.config import in_range

    settings = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    name = f"tubelet {command}"
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_none)
    with registry:
        try:
            config = tyro.cli(
                schema, prog=name, description=description, args=list(argv), default=default, config=settings,
                console_outputs=_is_first(),
            )  # fmt: skip
        except SystemExit as end:
            if end.code:
                _let_the_first_speak()
            raise
    return in_range(config, name)


def _none(argument: Any) -> Any:
    """tyro's rule for None, which is `none` here as in recipes' headers and in the help."""
    import tyro

    if argument.type is not type(None):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        choices=("none",),
        instance_from_str=lambda words: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda value: ["none"],
    )


def start(command: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process: 0, or 1 and one message for what the user can mend, 130 on ctrl-C."""
    arguments = sys.argv[1:] if argv is None else argv
    # Launchers of old pass the local rank as an argument as well as in the environment.
    arguments = [word for word in arguments if not word.startswith(("--local_rank=", "--local-rank="))]
    code = 0
    try:
        command(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if _wants_to_go_on(error):
            print(error, file=sys.stderr)
            _leave(REQUEUE)
        if _is_for_the_user(error):
            rank = os.environ.get("RANK", "0")
            if _is_in_the_arguments(error):
                _let_the_first_speak()
            print(f"error{f' on rank {rank}' if rank != '0' else ''}: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        code = 1
    _leave(code)


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message says it all; of any other error, a defect of ours, the traceback is what is needed."""
    from tubelet.backbones import UnknownModel, WeightsError
    from tubelet.datasets import DataError
    from tubelet.pipeline.errors import ConfigError, RunError
    from tubelet.video import VideoError

    return isinstance(error, ConfigError | DataError | OSError | RunError | UnknownModel | VideoError | WeightsError)


def _is_in_the_arguments(error: Exception) -> bool:
    from tubelet.pipeline.errors import ConfigError

    return isinstance(error, ConfigError)


def _is_first() -> bool:
    """Of the processes that a launcher started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _let_the_first_speak() -> None:
    """All processes of a machine find the same fault in the same arguments. The first says it, and the launcher ends
    the others while they wait here: if one of them ended at once, it might end the first before that."""
    if not _is_first():
        time.sleep(_PATIENCE)


def _wants_to_go_on(error: Exception) -> bool:
    from tubelet.pipeline.errors import Stopped

    return isinstance(error, Stopped)


def _leave(code: int) -> None:
    if "tubelet.pipeline.cluster.distributed" in sys.modules:
        sys.modules["tubelet.pipeline.cluster.distributed"].leave(code)
    raise SystemExit(code)


def main() -> None:
    """The console script `tubelet COMMAND ...`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: tubelet COMMAND [ARGUMENTS]\n\n" + "\n".join(f"  {c:{width}}  {t}" for c, t in COMMANDS.items()))
        print("\ntubelet COMMAND --help lists the arguments of a command")
        raise SystemExit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2)
        mend = f"Did you mean {' or '.join(near)}?" if near else f"Commands: {', '.join(COMMANDS)}"
        print(f"error: tubelet has no command '{name}'. {mend}", file=sys.stderr)
        raise SystemExit(2)
    command = importlib.import_module(f"tubelet.launch.{name}")
    start(command.main, sys.argv[2:])


if __name__ == "__main__":
    main()
