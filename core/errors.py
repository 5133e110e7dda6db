"""Errors that say what came, what was expected and what would work; a command ends with exit 2 on them."""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


def first_fault(error: ValidationError) -> str:
    """The first fault of a document as one line: where, and what was expected there."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


class InputError(ValueError):
    """The user's input is wrong; the message is one line that says how to mend it."""


class CheckpointError(InputError):
    """A file is not a checkpoint of this project, or is damaged; the message names the file and the reason."""


class ImageError(InputError):
    """A picture can't be used.

    `code` is stable and machine-readable: `not_an_image` (no signature of a known format), `broken_image`
    (known format, damaged), `animated_image` (more than one frame) or `too_large` (over the pixel limits).
    """

    def __init__(self, message: str, code: str = "broken_image") -> None:
        super().__init__(message)
        self.code = code


class RunError(RuntimeError):
    """A run can't go on, and not for something in the command; the message is one line, the exit code 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)` where one of the known names is close, else nothing."""
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""
