"""The command line of experiments that draw a figure from their results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ir.errors import UserError


def command(
    name: str,
    description: str | None,
    run: Callable[[argparse.Namespace], object],
    report: Callable[[Path], str],
    arguments: Sequence[str] | None = None,
    *,
    data: Path | None = Path("data/measured"),
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """The exit code of an experiment: `run(options)` measures or replays and writes the files, `report(output)` draws the figure from them and says what it
    shows. Options are `data` (unless it is None), `output`, `plot_only`, and what `add_options` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        parser.add_argument("--data", type=Path, default=data, help="a directory that tilewright record wrote, or a file of records")
    parser.add_argument("--output", type=Path, default=Path("experiments/results") / name)
    parser.add_argument("--plot-only", action="store_true", help="make the figure and the summary from an earlier results.csv")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        if not options.plot_only:
            run(options)
        print(report(options.output))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def count(text: str) -> int:
    """A number of things of which there must be one, for `argparse`."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; expected 1 or more")
    return number
