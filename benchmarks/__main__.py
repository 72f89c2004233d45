"""`make bench`, or `python -m benchmarks --only rollout angles`: measure, print, and keep in `benchmarks/results.csv`."""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import angles, bases, book, common_way, hugging_face, memory, rates, rollout, statistics
from benchmarks.harness import FOLDER, NotEqual, measure, merged, write

SUBJECTS = (statistics, memory, common_way, angles, bases, rollout, hugging_face, book)
ROWS = [row for subject in SUBJECTS for row in subject.ROWS]
SHOWN = [
    "name",
    "device",
    "ratio",
    "low",
    "high",
    "goal",
    "met",
    "seconds_ours",
    "seconds_other",
    "mb_ours",
    "mb_other",
    "difference",
]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status, 1 where two sides do not agree."""
    names = [*(row.name for row in ROWS), "rates"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--whole-book",
        action="store_true",
        help="the row `book` with the whole demo, and `book_cost`: half an hour more",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results.csv and rates.csv lie")
    options = parser.parse_args(arguments)
    kinds, measured, path = ["cpu", *["cuda"] * torch.cuda.is_available()], [], options.folder / "results.csv"
    for row in ROWS:
        if row.name == "book" and options.whole_book:
            row = book.WHOLE
        if row.name == "book_cost" and not options.whole_book:
            continue
        for kind in kinds:
            if row.name in options.only and kind in row.goals:
                print(f"{row.name} ({kind}) ...", file=sys.stderr, flush=True)
                try:
                    measured.append(measure(row, kind))
                except NotEqual as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 1
                write(merged(ROWS, measured, path), path)
    if "rates" in options.only:
        print(rates.keep([rates.rate(kind) for kind in kinds], options.folder / "rates.csv").to_string(index=False))
    print(merged(ROWS, measured, path)[SHOWN].to_string(index=False, na_rep=""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
