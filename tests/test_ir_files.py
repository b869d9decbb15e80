from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ir.errors import UserError
from ir.files import check_place, make_directory, replacing, write_file


def test_directories_are_made_and_found(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_directory_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: it is a file; expected a directory"):
        make_directory(tmp_path / "file")
    with pytest.raises(UserError, match="file/below: the directory cannot be made: Not a directory"):
        make_directory(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_file_is_replaced(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_file(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_target_that_is_a_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken: it cannot be written: something that is no file has its name"):
        write_file(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_place_is_checked_before_there_is_anything_to_write(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    (tmp_path / "taken").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_place(tmp_path / "file")
    check_place(tmp_path / "new")
    for name, words in {
        "absent/file": "its directory does not exist",
        "file/below": "what should be its directory is a file",
        "taken": "it is a directory",
        "": "it is a directory",
        "link": "something that is no file has its name",
        "a" * 240: "its name is too long",  # what is written beside it has a longer one
    }.items():
        with pytest.raises(UserError, match=f"{name}: it cannot be written: {words}"):
            check_place(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "taken"]


def test_links_are_neither_replaced_nor_followed(tmp_path: Path) -> None:
    """Like /dev/stdout, which is a link to a file where it was redirected to one."""
    write_file(tmp_path / "file", b"old")
    for name, behind in {"link": tmp_path / "file", "fresh": tmp_path / "new", "device": Path("/dev/null")}.items():
        (tmp_path / name).symlink_to(behind)
        with pytest.raises(UserError, match=f"{name}: it cannot be written: something that is no file has its name"):
            write_file(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not (tmp_path / "new").exists()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="file: it cannot be written: File too large"):
            write_file(tmp_path / "file", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")

    def interrupted() -> None:
        with replacing(tmp_path / "file") as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_private_directory(tmp_path: Path) -> None:
    make_directory(tmp_path / "a", 0o700)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
