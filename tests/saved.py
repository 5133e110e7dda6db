"""A small run folder, a save into it, and what a restart finds there: `make soak` kills the second with strace.

python -m tests.saved {prepare,save,look} FOLDER
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from tests.training.test_faults import save, what_is_there
from training.run_folder import RunFolder

MARK = "the save begins here"


def main(what: str, path: str) -> None:
    folder = RunFolder(Path(path))
    if what == "prepare":
        for sub in (folder.checkpoints, folder.resume):
            sub.mkdir(parents=True)
        save(folder, 1)
        save(folder, 2)
    elif what == "save":
        with suppress(OSError):
            os.unlink(f"/{MARK}")  # noqa: PTH108 -- what the trace of system calls is read from
        save(folder, 3)
        os._exit(0)
    else:
        print(*sorted("old" if epoch == 2 else "new" for epoch in what_is_there(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
