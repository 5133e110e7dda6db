"""Check that docs/troubleshooting.md quotes messages as the code has them."""

from __future__ import annotations

import re

import pytest

from tests.support.markdown import table_rows
from tests.support.paths import ROOT

QUOTES = [row[0] for row in table_rows((ROOT / "docs" / "troubleshooting.md").read_text())]
FOREIGN = ("No module named training", "connectFullMesh failed")  # messages of Python and of gloo


@pytest.mark.parametrize("quote", [quote for quote in QUOTES if quote not in FOREIGN])
def test_quoted_message_is_in_the_code(quote: str) -> None:
    packages = [ROOT / package for package in ("core", "training", "service")]
    sources = [path.read_text() for package in packages for path in (*package.rglob("*.py"), *package.rglob("*.js"))]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # join string literals that continue on the next line
    pattern = re.escape(quote).replace(re.escape("..."), r"\$?\{[^}]*\}")  # "..." stands for a value of an f-string
    assert re.search(pattern, code), quote
