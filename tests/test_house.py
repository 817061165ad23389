"""The house: imports go down the floors only, and our folders hide nobody's packages."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "launch": {"pipeline", "datasets", "backbones", "video"},
    "pipeline": {"datasets", "backbones", "video"},
    "datasets": {"video"},
    "backbones": set(),
    "video": set(),
}


def imports_of(file: Path) -> set[str]:
    """Absolute names a file imports, wherever in it they stand."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.ImportFrom) and node.level > len(file.relative_to(ROOT).parts) - 1:
            names.add(f"{file}: a relative import that leaves its folder")
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_down(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        for name in imports_of(file):
            first, *rest = name.split(".")
            assert first not in MAY_IMPORT, f"{file} imports {name}: write tubelet.{name}"
            assert " relative import" not in name
            if first == "tubelet":
                assert rest, f"{file} imports the namespace itself"
                assert rest[0] == folder or rest[0] in MAY_IMPORT[folder], (
                    f"{file} imports {name}, which is not below it"
                )


def test_every_package_is_installed() -> None:
    """pyproject.toml names the packages, since their folders do not lie under a folder `tubelet`."""
    listed = set(re.findall(r'"(tubelet\.[a-z.0-9_]+)",', (ROOT / "pyproject.toml").read_text()))
    found = {
        ".".join(("tubelet", *file.parent.relative_to(ROOT).parts))
        for folder in MAY_IMPORT
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert found <= listed, f"not in pyproject.toml: {sorted(found - listed)}"


def test_no_script_bears_the_name_of_another_module() -> None:
    """`deepspeed launch/train.py` puts launch/ first on sys.path: `launch/types.py` would break Python itself."""
    others = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    ours = {path.stem for path in (ROOT / "launch").glob("*.py") if path.stem != "__init__"}
    assert ours, "no scripts found"
    assert not ours & others - {"tubelet"}


@pytest.mark.parametrize("first", ["datasets", "tubelet.datasets"])
def test_hugging_face_datasets_is_found_from_the_root(first: str) -> None:
    """DeepSpeed's multi-node runner puts the current folder first on PYTHONPATH; ours has a folder `datasets`."""
    code = (
        "import tubelet.launch.main\n"
        f"import {first}\n"
        "import datasets, tubelet.datasets\n"
        "assert 'site-packages' in datasets.__file__ and hasattr(datasets, 'load_dataset'), datasets.__file__\n"
        "assert hasattr(tubelet.datasets, 'ShardedSplit')\n"
        "print('both found')"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'launch'}"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip().endswith("both found"), run.stderr


def test_commands_start_without_what_they_may_not_need() -> None:
    """The compiler and torchvision would double the time that every command takes to start; pictures and TensorBoard
    are for one rank alone, the count of operations for few commands."""
    code = (
        "import sys, tubelet.pipeline.training.train, tubelet.pipeline.evaluation.evaluate\n"
        "import tubelet.pipeline.embedding.embed\n"
        "heavy = {'torch._dynamo', 'torchvision', 'deepspeed'}\n"
        "seldom = {'matplotlib', 'tensorboard', 'torch.utils.flop_counter'}\n"
        "print((heavy | seldom) & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr


@pytest.mark.slow
def test_a_plain_install_works_outside_the_checkout(tmp_path: Path) -> None:
    """`pip install .`, not editable: all packages, recipes and scripts are in the wheel."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", ROOT],
        check=True,
        timeout=300,
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.meta_path[:] = [f for f in sys.meta_path"
        " if 'editable' not in repr(f).lower()]\n"
        "import tubelet.launch.main, tubelet.pipeline.config as c\n"
        "assert c.__file__.startswith(sys.argv[1]), c.__file__\n"
        "print(c.read_recipe('demo').model.model)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "timesformer_tiny", run.stderr
