from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests import data_samples
from tests.tuning_samples import FOREIGN, LONGEST, MATMUL, store, trials, tuning
from tilewright import figures
from tilewright.history import Section, read_history

DRAWN = (figures.learning_curves, figures.distribution, figures.model_quality, figures.tuning_time, figures.failures, figures.speedups)


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    """More tasks than are shown one by one, the first with the longest of names, on a machine whose name is none."""
    machine = data_samples.MACHINE | {"cpu_model": "漢字 $x^{ CPU"}
    names = [LONGEST, FOREIGN, *(MATMUL.replace("m=64", f"m={i}") for i in range(1, 11))]
    made = [tuning(name, 48, seed, machine=machine) for seed, name in enumerate(names)]
    path = store(tmp_path_factory.mktemp("figures") / "r.db", [r for records, _ in made for r in records], [r for _, rounds in made for r in rounds])
    return read_history(path).sections[0]


def texts(figure: Figure) -> list[Text]:
    """All that are drawn: labels of ticks beyond the end of an axis are not."""
    unseen: set[Text] = set()
    for axes in figure.findobj(mpl.axes.Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unseen |= {label for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)}
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in unseen]


@pytest.mark.parametrize("draw", DRAWN)
def test_figures_are_readable(draw, section: Section) -> None:
    """Texts are 8 points or larger, inside of the figure, in letters that the font has."""
    with figures.house_style():
        figure = draw(section)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        assert figure.dpi == 150
        width, height = canvas.get_width_height()
        for text in texts(figure):
            box = text.get_window_extent()
            assert text.get_fontsize() >= 8, text
            assert "漢" not in text.get_text()
            if box.width:
                assert -1 <= box.x0 < box.x1 <= width + 1, text
                assert -1 <= box.y0 < box.y1 <= height + 1, text
        labelled = [axes for axes in figure.findobj(mpl.axes.Axes) if axes.get_xlabel()]
        assert labelled


def test_only_the_tasks_that_take_most_time_are_drawn(section: Section) -> None:
    slowest = sorted(section.tasks, key=lambda t: -t.best_seconds)[: figures.MAX_TASKS]
    with figures.house_style():
        figure = figures.learning_curves(section)
    panels = figure.findobj(mpl.axes.Axes)
    assert len(panels) == 2 * len(slowest)
    for task, axes in zip(slowest, panels[::2], strict=True):
        assert axes.get_title(loc="left").startswith(f"#{task.number} ")
    assert "the 10 of 12 tasks that take most time" in figure.get_supxlabel()


def test_learning_curve_shows_every_trial(tmp_path: Path) -> None:
    section = read_history(store(tmp_path / "r.db", trials(4e-6, None, 2e-6, 8e-6))).sections[0]
    work = section.tasks[0].work
    with figures.house_style():
        by_trials, by_seconds = figures.learning_curves(section).findobj(mpl.axes.Axes)
    for axes in (by_trials, by_seconds):  # a trial a second
        lines = {line.get_color(): np.transpose(line.get_data()) for line in axes.lines}
        assert lines["#9a9a9a"] == pytest.approx(np.array([[1, work / 4e-6], [3, work / 2e-6], [4, work / 8e-6]]))
        assert lines[figures.VERMILION].tolist() == [[2, 0]]
        assert lines[figures.BLUE][:4] == pytest.approx(np.array([[1, work / 4e-6], [2, work / 4e-6], [3, work / 2e-6], [4, work / 2e-6]]))
        assert lines[figures.ORANGE][:, 1] == pytest.approx(work / 4e-6)


def test_bars_of_time_add_up(section: Section) -> None:
    with figures.house_style():
        figure = figures.tuning_time(section)
    bars = figure.findobj(mpl.axes.Axes)[0].patches
    assert len(bars) == 4 * (figures.MAX_TASKS + 1)
    assert sum(bar.get_width() for bar in bars) == pytest.approx(section.part_seconds.to_numpy().sum())


def test_nothing_to_show_is_no_figure(tmp_path: Path) -> None:
    failed = read_history(store(tmp_path / "r.db", trials(None, None))).sections[0]
    assert [draw(failed) is None for draw in DRAWN] == [True, True, True, True, False, True]
    single = read_history(store(tmp_path / "s.db", trials(1.0))).sections[0]
    assert [draw(single) is None for draw in DRAWN] == [False, False, True, True, True, False]


def test_a_user_s_own_style_changes_nothing(section: Section) -> None:
    def drawn() -> bytes:
        with figures.house_style():
            return figures.png(figures.failures(section))

    expected = drawn()
    with mpl.rc_context({"font.size": 30, "text.usetex": True, "axes.facecolor": "red", "savefig.transparent": True}):
        assert drawn() == expected
        assert mpl.rcParams["font.size"] == 30
