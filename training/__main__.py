"""Street-scene semantic segmentation: train, evaluate, compare, predict, export.

python -m training train --model ddunet --data datasets/cityscapes
python -m training evaluate runs/ddunet --data datasets/cityscapes --split val --json report.json
python -m training compare runs/unet runs/r2unet runs/ddunet --data datasets/cityscapes --out report
python -m training predict runs/ddunet street.jpg --out masks --overlay
python -m training export runs/ddunet --to fp16 --out ddunet.safetensors --data datasets/cityscapes
python -m training synthesize datasets/scenes
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import Any, NoReturn

from core import not_installed

try:
    from core.errors import InputError, RunError, did_you_mean
    from training.commands import compare, evaluate, export, predict, synthesize, train
    from training.distributed.context import die_with_launcher
    from training.distributed.launcher import leave_verdict
    from training.engine.oom import out_of_memory
except ModuleNotFoundError as missing:
    sys.exit(not_installed(missing))

OF_PHOTOGRAPHS = "smaller photographs take less, and --device cpu takes the machine's memory"
LESS_MEMORY = {
    "train": "a smaller --batch-size, --size or --width takes less, and so do more parts of a batch with --accumulate",
    "evaluate": "a smaller --batch-size takes less, and --device cpu the machine's memory",
}


class Parser(argparse.ArgumentParser):
    """Tells a wrong flag in one line, as every other error is told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # a mistyped flag is none that begins like it

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message} (see {self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 done, 2 the user's input is wrong, 1 anything else (with its traceback)."""
    die_with_launcher()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in (train, evaluate, compare, predict, export, synthesize):
        command.add_parser(commands)
    try:
        options, unknown = parser.parse_known_args(arguments)
        if unknown:
            name = next(argument for argument in arguments if argument in commands.choices)
            close = did_you_mean(unknown[0], commands.choices[name]._option_string_actions)
            raise InputError(f"{unknown[0]}: not known here{close}; python -m training {name} --help lists what is")
        code: int = options.run_command(options, arguments)
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        leave_verdict(2)
        return 2
    except (TimeoutError, ConnectionError) as error:  # another attempt may fare better
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        leave_verdict(1)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"error: not enough memory ({said}); {LESS_MEMORY.get(options.command, OF_PHOTOGRAPHS)}", file=sys.stderr)
        leave_verdict(1)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a reader's thread that hangs on a dead network drive would keep the process for ever
