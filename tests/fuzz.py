"""Many random candidates of all operator families against the interpreter: what `make fuzz` runs.

    python tests/fuzz.py [--candidates 20000] [--seed 0]

Each part of the work is a process of its own, so that memory that LLVM leaks comes back and a crash says which part it was in. Ends with a count by
operator and machine, and status 1 if any candidate was wrong; hypothesis prints the smallest such one that it finds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from machines import MACHINES, MOST_THREADS
from operator_samples import operator_texts
from rich.console import Console
from rich.progress import track
from rich.table import Table
from test_codegen_kernel import check_random_candidate

from codegen.machine import allowed_cpus

A_PART = 250  # candidates
PART_SECONDS = 1800
LAST_WORDS = 3000  # characters of a failed part's errors


def check_part(number: int) -> Counter[tuple[str, str]]:
    """Candidates checked, by operator and machine."""
    counts: Counter[tuple[str, str]] = Counter()
    names = [name for name, machine in MACHINES.items() if machine.missing is None]

    @seed(number)
    @settings(max_examples=A_PART, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(text=operator_texts(), name=st.sampled_from(names), threads=st.integers(1, MOST_THREADS), rows=st.integers(0, 1 << 30))
    def run(text: str, name: str, threads: int, rows: int) -> None:
        check_random_candidate(text, MACHINES[name].with_threads(threads), rows)
        counts[text.partition(":")[0], name] += 1

    run()
    return counts


def checked_apart(number: int) -> tuple[Counter[tuple[str, str]], str]:
    """The same in a process of its own: what it counted, and how it failed, if it did."""
    try:
        done = subprocess.run([sys.executable, __file__, "--part", str(number)], capture_output=True, text=True, timeout=PART_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Counter(), f"no end within {PART_SECONDS} s"
    if done.returncode:
        return Counter(), f"status {done.returncode}: {done.stderr[-LAST_WORDS:]}"
    return Counter({(operator, name): count for operator, name, count in json.loads(done.stdout)}), ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, help="this part alone; prints its counts as JSON")
    given = parser.parse_args()
    if given.part is not None:
        print(json.dumps([[*of, count] for of, count in check_part(given.part).items()]))
        return 0
    parts = range(given.seed, given.seed + -(-given.candidates // A_PART))
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    with ThreadPoolExecutor(len(allowed_cpus())) as pool:
        running = {pool.submit(checked_apart, number): number for number in parts}
        for done in track(as_completed(running), "checking", total=len(running)):
            found, failure = done.result()
            counts += found
            if failure:
                failures.append(f"part --seed {running[done]}: {failure}")
    show(counts)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{counts.total()} candidates agree with the interpreter, {len(failures)} parts of {len(parts)} failed")
    return 1 if failures else 0


def show(counts: Counter[tuple[str, str]]) -> None:
    names = sorted({name for _, name in counts})
    table = Table("operator", *names)
    for operator in sorted({operator for operator, _ in counts}):
        table.add_row(operator, *(str(counts[operator, name]) for name in names))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
