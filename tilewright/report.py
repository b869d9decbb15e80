"""What a records file tells, for people: figures, and one page that holds them all."""

from __future__ import annotations

import logging
from pathlib import Path

from ir.files import make_directory, write_file
from tilewright import findings
from tilewright.history import Section, read_history
from tilewright.page import Shown, html_page


def write_report(records: Path, output: Path) -> list[Path]:
    """Writes PNG figures and `report.html`, which needs none of them, into the directory `output`, made if it is missing.

    Gives the paths in the order in which they were written. Figures for which the records have no data are left out; with several
    machines or thread counts in the records each has its own, numbered. `UserError` if the records cannot be read or hold no trial, or
    the files cannot be written; files that are there already are replaced one by one, each in one step.
    """
    history = read_history(records)
    make_directory(output)
    written, shown = [], []
    for i, section in enumerate(history.sections):
        figures = _figures(section)
        for name, figure in figures.items():
            written.append(output / f"{f'{i}-' if len(history.sections) > 1 else ''}{name}.png")
            write_file(written[-1], figure.png)
        shown.append(list(figures.values()))
    written.append(output / "report.html")
    write_file(written[-1], html_page(history, shown))
    return written


def _figures(section: Section) -> dict[str, Shown]:
    """The figures by file name."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns at length where it can keep no cache, and works all the same
    from tilewright import figures

    parts = (
        ("learning_curves", "Learning curves", figures.learning_curves, findings.learning),
        ("speedups", "Tuned and default schedules", figures.speedups, findings.gains),
        ("distribution", "All measured candidates", figures.distribution, findings.distances),
        ("model_quality", "The cost model", figures.model_quality, findings.model),
        ("tuning_time", "Tuning time", figures.tuning_time, findings.time),
        ("failures", "Failures", figures.failures, findings.failing),
    )
    found = {}
    with figures.house_style():
        for name, heading, draw, say in parts:
            figure = draw(section)
            if figure is not None:
                found[name] = Shown(heading, say(section), figures.png(figure))
    return found
