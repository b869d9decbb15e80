import ctypes
import ctypes.util
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest
from llvmlite import binding as llvm

from codegen import openmp
from codegen.openmp import LOADED, SYMBOLS, candidates, load, register_openmp


def test_registered_symbols_are_the_library_s() -> None:
    found = register_openmp()
    if found is None:
        pytest.skip("no OpenMP library here")
    library = ctypes.CDLL(found.path)
    for name in SYMBOLS:
        assert found.addresses[name] == ctypes.cast(getattr(library, name), ctypes.c_void_p).value == llvm.address_of_symbol(name)


def test_it_is_found_once_a_process() -> None:
    assert register_openmp() is register_openmp()


@pytest.mark.parametrize("asked", [1, 2, 3, 5])
def test_the_team_has_the_size_asked_for(asked: int) -> None:
    found = register_openmp()
    if found is None:
        pytest.skip("no OpenMP library here")
    task_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    parallel = ctypes.CFUNCTYPE(None, task_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(found.addresses["GOMP_parallel"])
    number, team = (ctypes.CFUNCTYPE(ctypes.c_int)(found.addresses[name]) for name in SYMBOLS[1:])
    seen: list[tuple[int, int]] = []
    parallel(task_type(lambda _: seen.append((number(), team()))), None, asked, 0)
    assert sorted(seen) == [(i, asked) for i in range(asked)]


def test_xgboost_s_own_library_comes_first() -> None:
    bundled = [str(file.locate()) for file in importlib.metadata.files("xgboost") or [] if file.name.startswith(("libgomp", "libomp"))]
    assert list(candidates())[: len(bundled)] == bundled


def test_without_wheels_the_system_s_library_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    monkeypatch.setattr(ctypes.util, "find_library", {"gomp": "libgomp.so"}.get)
    assert list(candidates()) == ["libgomp.so", LOADED]  # the last, by its name, is for the loader to find


def test_what_is_no_openmp_library_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "libgomp.so.1"
    text.write_text("not a library")
    assert load(str(text)) is None
    assert load(str(tmp_path / "absent.so")) is None
    other = ctypes.util.find_library("m")
    assert other is not None
    assert load(other) is None

    def all_wrong() -> Iterator[str]:
        yield from (str(text), other)

    monkeypatch.setattr(openmp, "candidates", all_wrong)
    assert register_openmp.__wrapped__() is None
