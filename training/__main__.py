"""Street-scene semantic segmentation: train, evaluate, compare, predict, export, inspect, convert.

python -m training train --model ddunet --data datasets/cityscapes
python -m training evaluate runs/ddunet --data datasets/cityscapes --split val --json report.json
python -m training compare runs/unet runs/r2unet runs/ddunet --data datasets/cityscapes --out report
python -m training predict runs/ddunet street.jpg --out masks --overlay
python -m training export runs/ddunet --to fp16 --out ddunet.safetensors --data datasets/cityscapes
python -m training inspect --data datasets/cityscapes
python -m training convert export datasets/mine --from coco
python -m training synthesize datasets/scenes
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

from core import missing_dependency_message

try:
    from core.errors import InputError, TrainingError, did_you_mean
    from training.distributed.context import die_with_launcher
    from training.distributed.launcher import report_fatal_error
    from training.engine.oom import is_out_of_memory
except ModuleNotFoundError as missing:
    sys.exit(missing_dependency_message(missing))

# Each command is a module of training/commands, imported only if it is the requested one.
COMMANDS = {
    "train": "train a model",
    "evaluate": "compute the scores of a checkpoint on labeled data",
    "compare": "compare checkpoints on one page",
    "predict": "segment images and videos",
    "export": "convert a checkpoint to fp16, or its network to OpenVINO or ONNX",
    "inspect": "show what a dataset contains, and what is wrong with it",
    "convert": "convert the export of an annotation tool, or a public data set, to a dataset",
    "synthesize": "write a dataset of generated scenes",
}
IMAGE_COMMANDS = "use smaller images, or the host's memory with --device cpu"
LESS_MEMORY = {
    "train": "use a smaller --batch-size, --size or --width, or more parts of a batch with --accumulate",
    "evaluate": "use a smaller --batch-size, or the host's memory with --device cpu",
}


class Parser(argparse.ArgumentParser):
    """Argument parser that reports wrong arguments in one line, like every other error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # A mistyped flag must not be taken for an abbreviation.

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message} (see {self.prog} --help)")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 success, 2 wrong user input, 1 any other error."""
    die_with_launcher()
    arguments = sys.argv[1:] if arguments is None else arguments
    command = next((argument for argument in arguments if argument in COMMANDS), "")
    try:
        options = parse(command, arguments)
        code: int = options.run_command(options, arguments)
        return code
    except ModuleNotFoundError as error:
        print(missing_dependency_message(error), file=sys.stderr)
        return 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        report_fatal_error(2)
        return 2
    except (TimeoutError, ConnectionError) as error:  # Not reported as fatal: a restart may succeed.
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        report_fatal_error(1)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"error: not enough memory ({reason}); {LESS_MEMORY.get(command, IMAGE_COMMANDS)}", file=sys.stderr)
        report_fatal_error(1)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parse(command: str, arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; of the command modules only that of `command` is imported. Raises InputError."""
    parser = Parser(prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == command:
            module = import_module(f"training.commands.{name}")
            subparser.description = module.__doc__
            subparser.set_defaults(run_command=module.run)
            module.add_arguments(subparser)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        actions = commands.choices[command]._option_string_actions
        known = [flag for flag, action in actions.items() if action.help != argparse.SUPPRESS]
        raise InputError(
            f"{unknown[0]}: unknown argument{did_you_mean(unknown[0], known)}; see python -m training {command} --help"
        )
    return options


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # A reader thread that hangs on an unavailable network drive would keep the process alive.
