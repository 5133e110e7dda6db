"""The type of the `cli` fixture, and a check of usage errors."""

from __future__ import annotations

from collections.abc import Callable

Cli = Callable[..., tuple[int, str, str]]
"""Runs `python -m training ARGUMENTS` in this process and returns (exit code, standard output, standard error)."""


def usage_error(cli: Cli, *arguments: object) -> str:
    """Run a command that must fail with exit code 2 and one line of error message; return the message."""
    code, _, err = cli(*arguments)
    assert code == 2, err
    message = err.rsplit("\r")[-1]  # after the progress bar
    assert message.startswith("error: ") and message.count("\n") == 1, err
    return message
