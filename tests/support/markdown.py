"""Read sections, code blocks and tables of the documentation."""

from __future__ import annotations

import re
from textwrap import dedent


def section(text: str, title: str) -> str:
    """Return the text below a second-level heading, up to the next one."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, code) of all fenced code blocks, without the indentation of lists."""
    return [(language, dedent(code)) for language, code in re.findall(r"^ *```(\w+)\n(.*?)^ *```", text, re.DOTALL | re.M)]


def bash_commands(text: str) -> list[str]:
    """Return the commands of all bash blocks, one string each, without comments and continuation lines."""
    code = "\n".join(code for language, code in code_blocks(text) if language == "bash")
    lines = code.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows whose first cell is code, without backticks."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]
