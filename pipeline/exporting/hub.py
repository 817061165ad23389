"""A folder to the Hugging Face Hub. Whether that can be is found out before the work, and said in one message."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ConfigError, RunError, first_line


def check_push(name: str) -> None:
    """Raises ConfigError unless `name` is one, the package is there, and someone is logged in."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII):
        raise ConfigError(
            f"--push {name}: give OWNER/NAME: your name on the Hub, or your organisation's, and a new one"
        )
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise ConfigError("--push needs the package huggingface_hub: pip install 'tubelet[hub]'") from error
    if get_token() is None:
        raise ConfigError(
            "--push needs a token of the Hugging Face Hub that may write: log in with `hf auth login`, or set HF_TOKEN"
        )


def push(folder: Path, name: str, private: bool) -> str:
    """Puts all files of `folder` to the model `name`, which is made where there is none, in one commit; says where they
    are. Raises RunError with the cause; the folder stays."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="tubelet")
    try:
        place = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="tubelet export")
    except Exception as error:  # the library passes on whatever its HTTP client raises
        raise RunError(
            f"--push {name}: the Hub did not take it ({first_line(error)}). {folder} is whole; when the cause is "
            f"mended, put it there with `hf upload {name} {folder}`"
        ) from error
    return f'{place}: load it with create_model("hf-hub:{name}") or --checkpoint hf-hub:{name}'
