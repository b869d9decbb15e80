"""The page of a report: one HTML file that needs nothing else. It is built as a tree, so that every text is escaped when it is written."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tilewright.display import clock, counted, milliseconds
from tilewright.history import History, Section, TaskHistory
from tilewright.inspect import schedule_text


@dataclass(frozen=True)
class Shown:
    """A figure on the page: what it is about, what it shows, and its PNG."""

    heading: str
    sentence: str
    png: bytes


STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --line: #d9dee3; --back: #ffffff; --card: #f4f6f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b0; --line: #333b44; --back: #14181d; --card: #1d232a; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .3rem; padding-top: 1.2rem; border-top: 2px solid var(--accent); overflow-wrap: anywhere; }
h3 { font-size: 1.08rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; max-width: 46rem; }
.soft, dt, summary, th, caption { color: var(--soft); }
.soft, dd, .key, .schedule { overflow-wrap: anywhere; }
nav a { color: var(--accent); display: block; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { background: var(--card); border-radius: .6rem; padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.25; }
.tiles span { color: var(--soft); font-size: .85rem; line-height: 1.3; display: block; }
details { margin: .4rem 0; font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; }
dd { margin: 0; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; margin-top: .6rem; }
caption { text-align: left; font-size: .85rem; padding-bottom: .4rem; }
th { font-weight: 500; font-size: .82rem; text-align: right; vertical-align: bottom; padding: .3rem .5rem; border-bottom: 1px solid var(--line); }
td { text-align: right; vertical-align: top; padding: .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; font-variant-numeric: tabular-nums; }
th.text, td.text { text-align: left; white-space: normal; padding-left: 0; }
td.strong { font-weight: 700; }
.key, .schedule { display: block; font-size: .78rem; line-height: 1.4; color: var(--soft); }
.schedule { color: inherit; }
figure { margin: .6rem 0 0; overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: .5rem; }
img { display: block; width: 100%; min-width: 34rem; max-width: 58rem; height: auto; margin: 0 auto; }
@media (max-width: 46rem) {
  table.tasks, table.tasks tbody, table.tasks tr { display: block; }
  table.tasks thead { display: none; }
  table.tasks tr { display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line); padding: .6rem 0; }
  table.tasks td { border: 0; text-align: left; padding: .15rem 0; }
  table.tasks td.text { grid-column: 1 / -1; }
  table.tasks td[data-label]::before { content: attr(data-label); display: block; font-size: .75rem; font-weight: 400; color: var(--soft); }
}
"""

COLUMNS = ("trials", "failed", "default", "best", "speedup", "GFLOP/s")


def html_page(history: History, shown: Sequence[Sequence[Shown]]) -> bytes:
    """The page of a history, with the figures of each of its sections."""
    html = Element("html", lang="en")
    head, body = SubElement(html, "head"), SubElement(html, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"})
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _text(head, "title", f"Tuning report of {history.path.name}")
    _text(head, "style", STYLE)
    _text(body, "h1", "Tuning report")
    n_trials = counted(sum(section.n_trials for section in history.sections), "trial")
    _text(body, "p", f"{history.path.name}: {n_trials}, records last written {history.changed:%Y-%m-%d %H:%M} UTC", "soft")
    if len(history.sections) > 1:
        contents = SubElement(body, "nav")
        for i, section in enumerate(history.sections):
            SubElement(contents, "a", href=f"#section-{i}").text = section.title
    for i, (section, figures) in enumerate(zip(history.sections, shown, strict=True)):
        _section(SubElement(body, "section", id=f"section-{i}"), section, figures)
    indent(html)
    return ("<!DOCTYPE html>\n" + tostring(html, encoding="unicode", method="html")).encode(errors="replace")  # the name of a file may be no text


def _section(parent: Element, section: Section, figures: Sequence[Shown]) -> None:
    _text(parent, "h2", section.title)
    _machine(parent, section)
    _tiles(parent, section)
    _tasks(parent, section)
    for shown in figures:
        _text(parent, "h3", shown.heading)
        _text(parent, "p", shown.sentence)
        image = f"data:image/png;base64,{base64.b64encode(shown.png).decode()}"
        SubElement(SubElement(parent, "figure"), "img", src=image, alt=f"{shown.heading}. {shown.sentence}")
    if section.n_failed:
        _failures(parent, section)


def _machine(parent: Element, section: Section) -> None:
    _text(parent, "p", ", ".join(f"{name} {version}" for name, version in section.versions.items()), "soft")
    details = SubElement(parent, "details")
    _text(details, "summary", "The machine in full")
    facts = SubElement(details, "dl")
    for name, value in {**section.machine, "threads": section.threads}.items():
        _text(facts, "dt", name.replace("_", " "))
        _text(facts, "dd", str(value))


def _tiles(parent: Element, section: Section) -> None:
    """The few numbers that matter most."""
    tiles = SubElement(parent, "ul", {"class": "tiles"})
    found = [(f"{len(section.tuned)}/{len(section.tasks)}", "tasks with a valid schedule")]
    if section.compared:
        runs = "for one run" if len(section.compared) == 1 else f"for {len(section.compared)} tasks, each once"
        found = [
            (f"{section.speedup:.2f}×", "the speed of the default schedules"),
            (milliseconds(section.best_seconds), f"{runs}; {milliseconds(section.default_seconds)} by default"),
            *found,
        ]
    found.append((f"{section.n_trials:,}", f"{'trial' if section.n_trials == 1 else 'trials'} in {clock(section.tuning_seconds)} minutes"))
    found.append((f"{section.n_failed:,}", "failed"))
    for number, meaning in found:
        tile = SubElement(tiles, "li")
        _text(tile, "b", number)
        _text(tile, "span", meaning)


def _tasks(parent: Element, section: Section) -> None:
    table = SubElement(parent, "table", {"class": "tasks"})
    head = SubElement(SubElement(table, "thead"), "tr")
    _text(head, "th", "task, its key and its best schedule", "text")
    for column in COLUMNS:
        _text(head, "th", column)
    body = SubElement(table, "tbody")
    for task in section.tasks:
        _task(SubElement(body, "tr"), task)


def _task(row: Element, task: TaskHistory) -> None:
    name = SubElement(row, "td", {"class": "text"})
    _text(name, "b", task.title)
    first, *rest = task.key.split(",")
    key = _text(name, "span", first, "key")
    for part in rest:
        SubElement(key, "wbr").tail = f",{part}"
    _text(name, "span", schedule_text(task.best) if task.best else "no valid trial", "schedule")
    cells = (
        f"{task.n_trials:,}", f"{task.n_failed:,}", milliseconds(task.default_seconds if task.default else None),
        milliseconds(task.best_seconds if task.best else None), f"{task.speedup:.2f}×" if task.compared else "–",
        f"{task.best_speed:,.4g}{'' if task.task.flops else f' {task.unit}'}" if task.best and task.task is not None else "–",
    )  # fmt: skip
    for column, cell in zip(COLUMNS, cells, strict=True):
        _text(row, "td", cell, "strong" if column == "speedup" else "").set("data-label", column)


def _failures(parent: Element, section: Section) -> None:
    """One example of what each class of failure said."""
    table = SubElement(parent, "table")
    head = SubElement(SubElement(table, "thead"), "tr")
    for column in ("failure", "for example"):
        _text(head, "th", column, "text")
    body = SubElement(table, "tbody")
    for failure, message in zip(section.failures["failure"], section.failures["message"], strict=True):
        row = SubElement(body, "tr")
        _text(row, "td", failure, "text")
        _text(_text(row, "td", "", "text"), "span", message, "key")


def _text(parent: Element, tag: str, text: str, style: str = "") -> Element:
    element = SubElement(parent, tag, {"class": style} if style else {})
    element.text = text
    return element
