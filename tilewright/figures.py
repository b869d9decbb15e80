"""The figures of a report, drawn from a `Section`; each gives None where there is nothing to show.

Only matplotlib's objects are used, and its default style whatever the user's own is, so that figures look the same everywhere.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from tilewright.history import PARTS, SCORES, Section, TaskHistory

WIDTH, DPI = 7.5, 150  # inches, and dots an inch
MAX_TASKS = 10  # in figures with a panel or a strip a task
MAX_BARS = 30
FAR = 1000.0  # times the best: slower candidates are drawn here

# Okabe and Ito's colours, which those who see few colours can tell apart.
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, BLACK = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#000000"
GREY = "#6b6b6b"
PART_COLOURS = dict(zip(PARTS, (PURPLE, SKY, BLUE, ORANGE), strict=True))

FONT = "DejaVu Sans"  # comes with matplotlib
STYLE = {
    "font.family": FONT,
    "font.size": 9,
    "text.parse_math": False,  # a task's name may hold a dollar sign
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Figures are drawn and turned into PNG inside of this."""
    with mpl.style.context(["default", STYLE]):
        yield


def png(figure: Figure) -> bytes:
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


# --- the figures ------------------------------------------------------------------------------------------------------


def learning_curves(section: Section) -> Figure | None:
    """A row of panels a task: speeds against trials, and against seconds."""
    shown = [t for t in section.tuned if t.n_trials][:MAX_TASKS]
    if not shown:
        return None
    figure, part = _framed(section, "Best speed found so far", 1.1 + 1.55 * len(shown), n_shown=len(shown), n_tasks=len(section.tuned))
    panels = part.subplots(len(shown), 2, squeeze=False, sharey="row")
    for task, (by_trials, by_seconds) in zip(shown, panels, strict=True):
        _learning_panel(by_trials, task, np.arange(1, task.n_trials + 1), task.kept_after_trials)
        _learning_panel(by_seconds, task, task.trials["elapsed_seconds"].to_numpy(), task.kept_after_seconds)
        speedup = f", {task.speedup:.2f}× default" if task.compared else ""
        by_trials.set_title(f"{_drawable(task.title)}: {task.best_speed:,.4g} {task.unit}{speedup}").set_in_layout(False)  # it is as wide as both panels
        by_seconds.set_title(" ")  # and this one keeps room for it
        by_trials.set_ylabel(task.unit)
    panels[-1][0].set_xlabel("trials")
    panels[-1][1].set_xlabel("seconds of tuning")
    handles = [
        Line2D([], [], color=BLUE, lw=2, label="best so far"),
        Line2D([], [], color="#9a9a9a", lw=0, marker="o", ms=3.5, label="each trial"),
        Line2D([], [], color=ORANGE, lw=1.8, ls="--", label="default schedule"),
        Line2D([], [], color=GREEN, lw=0, marker="D", ms=6, mec="white", label="kept at the end"),
    ]
    if any(t.n_failed for t in shown):
        handles.append(Line2D([], [], color=VERMILION, lw=0, marker="x", ms=5, label="failed"))
    _legend(part, handles)
    return figure


def _learning_panel(axes: Axes, task: TaskHistory, x: np.ndarray, kept_at: float) -> None:
    seconds, so_far = task.trials["seconds"].to_numpy(), task.trials["so_far"].to_numpy()
    failed = ~np.isfinite(seconds)
    axes.plot(x[~failed], task.work / seconds[~failed], "o", color="#9a9a9a", ms=2.5, alpha=0.6, mew=0)
    if task.default is not None:
        axes.axhline(task.work / task.default_seconds, color=ORANGE, lw=1.8, ls="--")
    found = np.isfinite(so_far)
    axes.plot(np.append(x[found], x[-1:]), task.work / np.append(so_far[found], so_far[-1:]), color=BLUE, lw=2, drawstyle="steps-post")
    if failed.any():  # matplotlib's layout stumbles over a line without points that is not clipped
        axes.plot(x[failed], np.zeros(failed.sum()), "x", color=VERMILION, ms=5, mew=1.2, clip_on=False, zorder=3)
    if task.best is not None and task.best.kept:
        axes.plot(kept_at, task.best_speed, "D", color=GREEN, ms=6, mec="white", clip_on=False, zorder=4)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def distribution(section: Section) -> Figure | None:
    """A strip a task: the time of every valid candidate as a multiple of the best one's."""
    shown = [t for t in section.tuned if t.n_trials][:MAX_TASKS]
    if not shown:
        return None
    height = 1.6 + 0.55 * len(shown)
    figure, part = _framed(section, "How far candidates are from the best schedule", height, n_shown=len(shown), n_tasks=len(section.tuned))
    axes = part.subplots()
    rng = np.random.default_rng(0)  # where in its strip a point lies means nothing
    for place, task in enumerate(shown):
        ratio = task.trials["seconds"] / task.best_seconds
        valid, first = np.isfinite(ratio), task.trials["round"] == task.trials["round"].min()
        for batch, height, colour in ((first, -0.2, SKY), (~first, 0.2, BLUE)):
            mine = np.minimum(ratio[valid & batch].to_numpy(), FAR)
            axes.plot(mine, place + height + rng.uniform(-0.13, 0.13, len(mine)), "o", color=colour, ms=3.2, alpha=0.55, mew=0)
            if len(mine):
                axes.plot([np.median(mine)] * 2, [place + height - 0.17, place + height + 0.17], color=BLACK, lw=2)
        if task.compared:
            axes.plot(min(task.speedup, FAR), place, "D", color=ORANGE, ms=7, mec=BLACK, mew=0.8, zorder=4)
    _name_rows(axes, shown)
    axes.axvline(1, color=GREEN, lw=1.5)
    axes.set_xscale("log")
    axes.set_xlim(right=max(axes.get_xlim()[1], 2.2))
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("time, as a multiple of the best schedule's")
    handles = [
        Line2D([], [], color=SKY, lw=0, marker="o", ms=5, label="first batch"),
        Line2D([], [], color=BLUE, lw=0, marker="o", ms=5, label="later batches"),
        Line2D([], [], color=BLACK, lw=0, marker="|", ms=10, mew=2, label="median"),
        Line2D([], [], color=ORANGE, lw=0, marker="D", ms=6, mec=BLACK, mew=0.8, label="default schedule"),
        Line2D([], [], color=GREEN, lw=1.5, label="best schedule"),
    ]
    _legend(part, handles)
    return figure


def model_quality(section: Section) -> Figure | None:
    """A panel a score: each task, the mean over tasks, and what ranking by chance can expect."""
    judged = section.judged
    if judged.empty:
        return None
    figure, part = _framed(section, "How well the cost model ranked each batch before learning from it", 5.8)
    panels = part.subplots(2, 2, sharex=True)
    means = judged.groupby("round").mean()
    for axes, (score, (name, meaning)) in zip(panels.flat, SCORES.items(), strict=True):
        for _, rounds in judged.dropna(subset=score).groupby("task"):
            axes.plot(rounds["round"], rounds[score], color=SKY, lw=0.9, alpha=0.8, marker="o", ms=2)
        axes.plot(means.index, means[f"chance_{score}"], color=VERMILION, lw=1.5, ls="--")
        axes.plot(means.index, means[score], color=BLUE, lw=2.4, marker="o", ms=4)
        axes.set_title(f"{name}: mean {judged[score].mean():.0%}" if judged[score].notna().any() else name)
        axes.set_ylabel(meaning)
        lowest = np.nanmin([*judged[score], *judged[f"chance_{score}"], 0.8])
        axes.set_ylim(math.floor(10 * lowest) / 10 - 0.02, 1.02)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes in panels[-1]:
        axes.set_xlabel("batch")
    one = judged["task"].nunique() == 1
    handles = [
        *([] if one else [Line2D([], [], color=SKY, lw=1, marker="o", ms=2, label="a task")]),
        Line2D([], [], color=BLUE, lw=2.4, marker="o", ms=4, label="cost model" if one else "cost model, mean of the tasks"),
        Line2D([], [], color=VERMILION, lw=1.5, ls="--", label="ranking by chance"),
    ]
    _legend(part, handles)
    return figure


def tuning_time(section: Section) -> Figure | None:
    """A bar a task, the longest first: seconds of each part."""
    parts = section.part_seconds
    parts = parts[parts.sum(axis=1) > 0]
    if parts.empty:
        return None
    order = parts.sum(axis=1).sort_values(ascending=False, kind="stable").index
    shown, rest = order[:MAX_TASKS], order[MAX_TASKS:]
    bars = parts.loc[shown].to_numpy()
    names = [_row_name(section.tasks[i]) for i in shown]
    if len(rest):
        bars, names = np.vstack([bars, parts.loc[rest].sum()]), [*names, f"{len(rest)} other task{'' if len(rest) == 1 else 's'}"]
    figure, part = _framed(section, "Where the tuning time went", 1.5 + 0.42 * len(bars))
    axes = part.subplots()
    lefts = np.cumsum(bars, axis=1) - bars
    totals, whole = parts.sum(), parts.sum().sum()
    for i, name in enumerate(PARTS):
        label = f"{name} {totals[name]:.3g} s ({totals[name] / whole:.0%})"
        axes.barh(np.arange(len(bars)), bars[:, i], left=lefts[:, i], height=0.68, color=PART_COLOURS[name], label=label)
    _rows(axes, names)
    axes.set_xlabel("seconds")
    _legend(part, axes.get_legend_handles_labels()[0])
    return figure


def failures(section: Section) -> Figure | None:
    """A bar for each class of failure."""
    classes = section.failures
    if classes.empty:
        return None
    figure, part = _framed(section, f"{section.n_failed:,} of {section.n_trials:,} trials failed", 1.1 + 0.42 * len(classes))
    axes = part.subplots()
    bars = axes.barh(np.arange(len(classes)), classes["n"], height=0.62, color=VERMILION)
    axes.bar_label(bars, [f"{n:,}" for n in classes["n"]], padding=4, fontsize=9)
    _rows(axes, [_drawable(name) for name in classes["failure"]])
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    axes.set_xlabel("trials")
    return figure


def speedups(section: Section) -> Figure | None:
    """A bar a task and one for all together: how many times faster the best schedule is than the default one."""
    if not section.compared:
        return None
    shown = section.compared[:MAX_BARS]
    pairs = [(t.default_seconds, t.best_seconds) for t in shown]
    names = [_row_name(t) for t in shown]
    if len(section.compared) > 1:
        pairs, names = [(section.default_seconds, section.best_seconds), *pairs], [f"all {len(section.compared)} tasks together", *names]
    title = f"Tuned schedules are {section.speedup:.2f}× as fast as the default ones"
    figure, part = _framed(section, title, 1.4 + 0.42 * len(pairs), n_shown=len(shown), n_tasks=len(section.compared))
    axes = part.subplots()
    ratios = [default / best for default, best in pairs]
    bars = axes.barh(np.arange(len(pairs)), ratios, height=0.68, color=[GREEN] * (len(pairs) - len(shown)) + [BLUE] * len(shown))
    axes.bar_label(bars, [f"{d / b:.2f}×   {1e3 * d:.3g} → {1e3 * b:.3g} ms" for d, b in pairs], padding=4, fontsize=8.5)
    _rows(axes, names)
    axes.axvline(1, color=ORANGE, lw=1.8, ls="--")
    axes.set_xlim(0, 1.45 * max(*ratios, 1.0))  # room for the labels
    axes.set_xlabel("speed, as a multiple of the default schedule's")
    _legend(part, [Line2D([], [], color=ORANGE, lw=1.8, ls="--", label="default schedule")])
    return figure


# --- what they share --------------------------------------------------------------------------------------------------


def _framed(section: Section, title: str, height: float, *, n_shown: int = 0, n_tasks: int = 0) -> tuple[Figure, SubFigure]:
    """A figure with its title on top and its origin below, and the part between them, which has room for a legend of its own."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.012, ha="left")
    choice = f"the {n_shown} of {n_tasks} tasks that take most time · " if n_shown < n_tasks else ""
    figure.supxlabel(choice + _drawable(section.title), x=0.988, ha="right", fontsize=8, color=GREY)
    return figure, figure.add_subfigure(figure.add_gridspec()[0])


def _legend(part: SubFigure, handles: Sequence[object]) -> None:
    part.legend(handles=handles, loc="outside upper left", ncols=len(handles), handlelength=1.6, columnspacing=1.4, borderaxespad=0.3)


def _row_name(task: TaskHistory) -> str:
    return textwrap.fill(_drawable(task.title), 30)


def _name_rows(axes: Axes, tasks: Sequence[TaskHistory]) -> None:
    _rows(axes, [_row_name(task) for task in tasks])


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """One horizontal strip a name, the first on top."""
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _drawable(text: str) -> str:
    """The text with a mark for each letter that the font lacks."""
    return "".join(letter if ord(letter) in _letters() else "\N{REPLACEMENT CHARACTER}" for letter in text)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())
