"""Files written aside: they take their place whole, with the right permissions, or leave everything as it was."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxk2.aside import written_aside


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_gets_what_the_umask_leaves(tmp_path: Path) -> None:
    with written_aside(tmp_path / "a") as fresh:
        fresh.write_text("new")
        assert not (tmp_path / "a").exists()
    assert ((tmp_path / "a").read_text(), mode(tmp_path / "a")) == ("new", 0o640)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(("asked", "got"), [(None, 0o604), (0o600, 0o600)])
def test_a_file_that_is_replaced_hands_on_its_permissions(tmp_path: Path, asked: int | None, got: int) -> None:
    place = tmp_path / "a"
    place.write_text("old")
    place.chmod(0o604)
    with written_aside(place, asked) as fresh:
        assert mode(fresh) == 0o600
        fresh.write_text("new")
        assert place.read_text() == "old"
    assert (place.read_text(), mode(place)) == ("new", got)


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt, GeneratorExit])
def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    place = tmp_path / "a"
    place.write_text("old")
    with pytest.raises(failure), written_aside(place) as fresh:
        fresh.write_text("half")
        raise failure
    assert (place.read_text(), os.listdir(tmp_path)) == ("old", ["a"])


def test_what_cannot_take_its_place_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "a"
    place.mkdir()
    with pytest.raises(OSError), written_aside(place) as fresh:
        fresh.write_text("new")
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with written_aside(tmp_path / "link") as fresh:
        fresh.write_text("new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "old"


def test_the_longest_name_has_room_and_an_ending_may_be_asked_for(tmp_path: Path) -> None:
    place = tmp_path / ("ä" * 127)
    with written_aside(place, ending=".safetensors") as fresh:
        assert fresh.suffix == ".safetensors"
        fresh.write_text("new")
    assert place.read_text() == "new"
