"""Errors that users see. Each message is one line: what is wrong, what was expected, and what to do.

ValueError
 +-- InputError              the input is wrong; a command exits with code 2
      +-- CheckpointError    not a checkpoint of this project, or damaged
      +-- ImageError         not a usable image; has a machine-readable `code`
RuntimeError
 +-- TrainingError           a run can't continue although its input is right; exit code 1
"""

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


class InputError(ValueError):
    """The user's input is wrong. The message explains in one line how to correct it."""


class CheckpointError(InputError):
    """A file is damaged or not a checkpoint of this project. The message names the file and the reason."""


class ImageError(InputError):
    """An image can't be used.

    `code` is stable and machine-readable: `unsupported_image_format` (no signature of a supported format),
    `corrupt_image` (supported format, damaged), `animated_image` (more than one frame) or `too_large` (exceeds a size
    limit).
    """

    def __init__(self, message: str, code: str = "corrupt_image") -> None:
        super().__init__(message)
        self.code = code


class TrainingError(RuntimeError):
    """A training run can't continue, for a reason other than the command's input. The message is one line."""


def first_validation_error(error: ValidationError) -> str:
    """Return pydantic's first error as one line, `FIELD.SUBFIELD: MESSAGE`."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean NAME?)` if one of the known names is similar to `name`, else an empty string."""
    matches = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {matches[0]}?)" if matches else ""
