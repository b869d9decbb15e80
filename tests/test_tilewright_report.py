from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data.record import Record
from ir.errors import UserError
from tests import data_samples
from tests.tuning_samples import CONV, FOREIGN, MATMUL, batch_round, final, store, trials, tuning
from tilewright.report import write_report

FIGURES = ["learning_curves.png", "speedups.png", "distribution.png", "model_quality.png", "tuning_time.png", "failures.png"]


class Page(HTMLParser):
    """What is on a page: its tags, its addresses, its texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report of two tasks, one of them with the worst of names."""
    path = tmp_path_factory.mktemp("report")
    machine = data_samples.MACHINE | {"cpu_model": "<b>CPU</b> & co"}
    made = [tuning(CONV, 48, 1, machine=machine), tuning(FOREIGN, 32, 2, machine=machine)]
    records = [record for records, _ in made for record in records]
    return write_report(store(path / "r.db", records, [r for _, rounds in made for r in rounds]), path / "a" / "report")


def test_figures_and_one_page_are_written(written: list[Path]) -> None:
    assert [path.name for path in written] == [*FIGURES, "report.html"]
    assert sorted(written) == sorted(written[0].parent.iterdir())
    for path in written[:-1]:
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_page_holds_its_figures_and_needs_nothing_else(written: list[Path]) -> None:
    page = Page(written[-1])
    assert [base64.b64decode(address.removeprefix("data:image/png;base64,")) for address in page.addresses] == [path.read_bytes() for path in written[:-1]]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(", written[-1].read_text(encoding="utf-8"))


def test_whatever_the_records_hold_is_text(written: list[Path]) -> None:
    page = Page(written[-1])
    assert FOREIGN in page.text
    assert CONV in page.text
    assert "<b>CPU</b> & co, 2 threads" in page.text
    assert page.tags.count("h1") == page.tags.count("body") == 1
    assert "the worker said timeout" in page.text


def test_page_tells_the_numbers_of_each_task(tmp_path: Path) -> None:
    records = trials(4e-6, None, 2e-6)
    page = Page(write_report(store(tmp_path / "r.db", records), tmp_path / "out")[-1])
    cells = [text for text in page.texts if text.strip()]
    start = cells.index("#0 matmul 64×48×32")
    assert "".join(cells[start + 1 : start + 6]) == MATMUL
    assert cells[start + 6 : start + 13] == ["tile_n: m 3, n 32", "3", "1", "0.004 ms", "0.002 ms", "2.00×", "98.3"]


@pytest.mark.parametrize(
    ("records", "figures"),
    [
        (trials(None, None), ["failures.png"]),
        (trials(1e-6), ["learning_curves.png", "speedups.png", "distribution.png"]),
        (trials(1e-6, 2e-6)[1:], ["learning_curves.png", "distribution.png"]),
        (trials(None, 2e-6), ["learning_curves.png", "distribution.png", "failures.png"]),
        ([final(trials(1.0)[0], 1e-6, kept=True)], []),
    ],
    ids=["only failures", "a single trial", "no default", "default failed", "only a final measurement"],
)
def test_figures_without_data_are_left_out(records: list[Record], figures: list[str], tmp_path: Path) -> None:
    written = write_report(store(tmp_path / "r.db", records), tmp_path / "out")
    assert [path.name for path in written] == [*figures, "report.html"]
    assert Page(written[-1]).tags.count("img") == len(figures)


def test_rounds_of_which_nothing_is_known(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("search_seconds", "build_seconds", "measure_seconds", "model_seconds", "elapsed_seconds"), 0.0)
    unjudged = batch_round(0, n_measured=0, k=0, pairwise_accuracy=None, recall_at_k=None, top_1=None, top_5=None, **nothing)
    written = write_report(store(tmp_path / "r.db", trials(1e-6, elapsed_seconds=0.0), [unjudged]), tmp_path / "out")
    assert [path.name for path in written] == ["learning_curves.png", "speedups.png", "distribution.png", "report.html"]


def test_every_machine_and_thread_count_has_its_section(tmp_path: Path) -> None:
    records = [*trials(None), *trials(None, threads=1)]
    written = write_report(store(tmp_path / "r.db", records), tmp_path / "out")
    assert [path.name for path in written] == ["0-failures.png", "1-failures.png", "report.html"]
    page = Page(written[-1])
    assert page.addresses[:2] == ["#section-0", "#section-1"]
    assert page.tags.count("h2") == 2


def test_reading_records_does_not_make_them_new(tmp_path: Path) -> None:
    path = store(tmp_path / "r.db", trials(None))
    os.utime(path, (1e9, 1e9))
    page = write_report(path, tmp_path / "out")[-1].read_text()
    assert "records last written 2001-09-09 01:46 UTC" in page


def test_report_is_written_over_the_old_one(tmp_path: Path) -> None:
    path, output = store(tmp_path / "r.db", trials(None)), tmp_path / "out"
    output.mkdir()
    (output / "report.html").write_text("old")
    (output / "mine.txt").write_text("mine")
    first = {path.name: path.read_bytes() for path in write_report(path, output)}
    assert {path.name: path.read_bytes() for path in write_report(path, output)} == first
    assert {path.name for path in output.iterdir()} == {"report.html", "failures.png", "mine.txt"}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"", "not a records file"), (b"not a database, not at all" * 9, "not a SQLite file")]
)
def test_records_that_cannot_be_read_leave_nothing_behind(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "r.db").write_bytes(content)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path / "r.db", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = store(tmp_path / "r.db", trials(None))
    with pytest.raises(UserError, match=r"r\.db: it is a file; expected a directory"):
        write_report(path, path)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(UserError, match=r"report\.html: it cannot be written: something that is no file has its name"):
        write_report(path, tmp_path / "out")


def test_command_line(tmp_path: Path) -> None:
    """Quiet also where matplotlib finds no place for a cache, and without pyplot, which holds state."""
    path = store(tmp_path / "r.db", trials(None))
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    environment["HOME"] = str(path)  # no directory
    command = [sys.executable, "-W", "error", "-m", "tilewright", "plot", "--records", str(path), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in ("failures.png", "report.html")]
