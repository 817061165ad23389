"""No clip whose class has a side is mirrored without its label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.pipeline.errors import ConfigError
from tubelet.pipeline.inputs.mirroring import Mirroring

CLASSES = [
    "Pushing something from left to right",
    "Dropping something",
    "Pushing something from right to left",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
    "Turning Hand Clockwise",
    "Turning Hand Counterclockwise",
    "move_left",
    "Brightening leftovers",
]


def test_pairs_are_found_by_their_words() -> None:
    found = Mirroring.of(CLASSES, "auto")
    assert found.partners.tolist() == [2, 1, 0, 4, 3, 6, 5, -1, 8]
    assert str(found).startswith(f"mirroring swaps '{CLASSES[0]}' and '{CLASSES[2]}'; ")
    assert "'move_left' is never mirrored" in str(found)
    assert str(Mirroring.of(["a", "b"], "auto")) == ""
    assert Mirroring.of(CLASSES, "none").partners.tolist() == list(range(9))


@given(
    st.lists(st.lists(st.sampled_from(["left", "right", "Right", "to", "clockwise", "anti-clockwise"])).map(" ".join))
)
def test_partners_are_mutual(classes: list[str]) -> None:
    partners = Mirroring.of(classes, "auto").partners
    for number, partner in enumerate(partners):
        assert partner == -1 or partners[partner] == number


def test_labels_are_mirrored_with_their_clips() -> None:
    mirroring = Mirroring.of(CLASSES, "auto")
    labels = torch.arange(9).repeat(50)
    drawn, changed = mirroring.draw(labels, 0.5, np.random.default_rng(0))
    mirrored = torch.tensor(drawn)
    assert not mirrored[labels == 7].any()
    assert mirrored[labels != 7].float().mean() == pytest.approx(0.5, abs=0.08)
    expected = torch.where(mirrored, torch.tensor([2, 1, 0, 4, 3, 6, 5, -1, 8])[labels], labels)
    assert torch.equal(changed, expected)
    assert not any(mirroring.draw(labels, 0.0, np.random.default_rng(0))[0])
    assert all(mirroring.draw(labels[labels != 7], 1.0, np.random.default_rng(0))[0])


def test_of_several_labels_each_is_mirrored_or_none() -> None:
    labels = torch.zeros(3, 9, dtype=torch.bool)
    labels[0, [0, 1]] = labels[1, [0, 7]] = True
    mirrored, changed = Mirroring.of(CLASSES, "auto").draw(labels, 1.0, np.random.default_rng(0))
    assert mirrored == [True, False, True]
    assert [row.nonzero().flatten().tolist() for row in changed] == [[1, 2], [0, 7], []]


def test_a_file_says_which(tmp_path: Path) -> None:
    file = tmp_path / "pairs.yaml"
    file.write_text("- [a, b]\n- d\n")
    assert Mirroring.of(["a", "b", "left", "d"], str(file)).partners.tolist() == [1, 0, 2, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- [slide, slied]", "'slied' is no class of the dataset; did you mean 'slide'"),
        ("- [slide, jump]\n- jump", "'jump' stands there twice"),
        ("- [slide, jump, run]", "give a list of pairs"),
        ("slide: jump", "give a list of pairs"),
        ("- 5", "give a list of pairs"),
        ("", "give a list of pairs"),
        ("- [", "neither auto nor none nor a readable YAML file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pairs.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Mirroring.of(["slide", "jump", "run"], str(file))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="--flip-pairs atuo: is neither auto nor none"):
        Mirroring.of(["a"], "atuo")
