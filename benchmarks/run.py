"""Measure the figures that the project promises; print a table for each benchmark and write it to results/."""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace
from pathlib import Path

# The checkout in place of this folder, whose trace.py would otherwise hide Python's own module of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import report  # noqa: E402
from benchmarks.machine import facts, use_threads  # noqa: E402

NAMES = (
    "kernels",
    "training",
    "resources",
    "recurrence",
    "transition",
    "trace",
    "influence",
    "guarantees",
    "sweep",
    "learning",
    "explorer",
    "scrubber",
    "figures",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Goals missed are printed, not raised; a wrong result ends the run. Look at the load average first: "
        "on a busy machine two threads wait for each other and every figure is wrong.",
    )
    # Checked by hand: argparse would not take an empty list for one of the choices.
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to run, all by default: {', '.join(NAMES)}")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch computes on (default: 2)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it runs; no goals, no results written"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"{unknown[0]} is no benchmark; expected some of {', '.join(NAMES)}")
    use_threads(options.threads)
    for name in options.names or NAMES:
        machine = facts()
        benchmark = importlib.import_module(f"benchmarks.{name}")
        try:
            figures = benchmark.measure(options.quick)
        except report.Unavailable as missing:
            print(f"\n{name}: not measured; {missing}.", flush=True)
            if options.names:
                sys.exit(1)
            continue
        if options.quick:
            figures = [replace(figure, at_least=None, at_most=None) for figure in figures]
        print(report.table(f"{name}: {benchmark.TITLE}", machine, figures), flush=True)
        if not options.quick:
            report.write(name, benchmark.TITLE, machine, figures)


if __name__ == "__main__":
    main()
