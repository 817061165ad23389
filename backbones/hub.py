"""Models on the Hugging Face Hub: a folder as `save_model` writes it, fetched once into that library's own cache."""

from __future__ import annotations

from pathlib import Path

from .layouts import WeightsError

PREFIX = "hf-hub:"
_FILES = ("config.json", "model.safetensors")
_ABOUT = "about.json"  # of `tubelet export`, where there is one


def is_on_hub(source: str | Path) -> bool:
    """Whether `source` means a model on the Hub: "hf-hub:owner/name", or "hf-hub:owner/name@revision"."""
    return str(source).startswith(PREFIX)


def model_folder(source: str | Path) -> Path:
    """The folder that `source` means: itself or, of a model on the Hub, the one in the cache, which is fetched if need
    be, both files of one revision. Without a network, what the cache holds is taken.

    Raises WeightsError: one message with the model, the cause and the mend.
    """
    if not is_on_hub(source):
        return Path(source)
    name, _, revision = str(source).removeprefix(PREFIX).partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise WeightsError(f"{source} needs the package huggingface_hub: pip install 'tubelet[hub]'") from error
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=[*_FILES, _ABOUT], library_name="tubelet"
        )
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{source}: there is no such model on the Hub, or it is private and your token does not open it. Check the "
            "name, or log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{source} cannot be fetched, and the cache does not hold it ({_first_line(error.__cause__ or error)}). "
            "Try again with a network, or give a folder that holds config.json and model.safetensors"
        ) from error
    except (OSError, ValueError) as error:  # no such revision, no room, a name that is none
        raise WeightsError(f"{source} cannot be fetched: {_first_line(error)}") from error
    missing = [file for file in _FILES if not Path(folder, file).is_file()]
    if missing:
        raise WeightsError(
            f"{source} holds no {' and no '.join(missing)}, so it is not a model that `tubelet export` wrote. Name "
            "another"
        )
    return Path(folder)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
