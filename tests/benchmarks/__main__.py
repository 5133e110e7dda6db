"""Run benchmarks and print their rows as a Markdown table, as in docs/performance.md.

python -m tests.benchmarks [PART...]      runs the given parts, by default all of them (`make bench`)
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks import microbenchmarks, serving, training, web_page
from tests.support.environment_info import environment_info

PARTS = {**serving.PARTS, **microbenchmarks.PARTS, **web_page.PARTS, **training.PARTS}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Compare this project with baselines.")
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"parts to run (default: all): {', '.join(PARTS)}")
    parts = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    print(f"{environment_info()}\n")
    print("| measurement | baseline | result | ratio | target |\n|---|---|---|---|---|")
    for part in parts:
        for row in PARTS[part]():
            print(row.markdown(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
