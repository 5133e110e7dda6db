"""Errors that say what came, what was expected and what would work; a command ends with exit 2 on them."""


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
