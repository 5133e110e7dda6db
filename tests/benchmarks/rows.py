"""A row of the result tables."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One measurement; empty cells stay empty in the table.

    Attributes:
        description: what was measured; "A, then B" names the baseline and the result.
        baseline: measurement of the baseline, with its unit.
        result: measurement of this project, with its unit.
        ratio: ratio of the two, in the direction in which larger is better unless the description says otherwise.
        target: required ratio or result.
    """

    description: str
    baseline: str = ""
    result: str = ""
    ratio: str = ""
    target: str = ""

    def markdown(self) -> str:
        return f"| {' | '.join(self)} |"
