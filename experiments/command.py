"""The command line of experiments: exit codes, Ctrl-C, and what those have in common that draw a figure from their results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from experiments.files import RESULTS
from ir.errors import UserError
from ir.files import check_place, make_directory


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
    """The exit code of an experiment: `run(options)` measures or replays and writes the files, `report(output)` makes tables and figures from them and says
    what they show. Options are `data` (unless it is None), `output`, `plot_only`, and what `add_options` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        parser.add_argument("--data", type=Path, default=data, help="a directory that tilewright record wrote, or a file of records")
    parser.add_argument("--output", type=Path, default=Path("experiments/results") / name)
    parser.add_argument("--plot-only", action="store_true", help="make tables, figures and the summary from the results of an earlier run")
    add_options(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        if not options.plot_only:
            make_directory(options.output)
            check_place(options.output / RESULTS)  # before what takes long
            run(options)
        print(report(options.output))

    return exit_code(work)


def exit_code(work: Callable[[], object]) -> int:
    """0, or 2 for a `UserError` and 130 for Ctrl-C, which a line on standard error tells."""
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; what is not done is not written", file=sys.stderr)
        return 130
    return 0


class Interruptible(Protocol):
    @property
    def interrupted(self) -> bool: ...


R = TypeVar("R", bound=Interruptible)


def whole(result: R) -> R:
    """What a tuning or a comparison found; `KeyboardInterrupt` where Ctrl-C cut it short, for then it is none that an experiment may tell of."""
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def counts(text: str) -> tuple[int, ...]:
    """Of `count`, with commas between them."""
    return tuple(map(count, text.split(",")))


def count(text: str) -> int:
    """A number of things of which there must be one, for `argparse`."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; expected 1 or more")
    return number
