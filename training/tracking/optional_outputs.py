"""Output that a training run can do without, such as curves: no failure to write it may end the run."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType


class BestEffort:
    """Context manager that suppresses every exception of its blocks and prints the first one as a warning."""

    def __init__(self, path: Path, output: str) -> None:
        """Name the `output` and its `path` for the warning."""
        self.path, self.output = path, output
        self.failed = False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False  # success, or an interrupt
        if not self.failed:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
            print(
                f"warning: {self.path}: {self.output} not written ({' '.join(reason.split())}); training continues", flush=True
            )
        self.failed = True
        return True
