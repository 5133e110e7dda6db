"""A finished training run that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.__main__ import main


@pytest.fixture(scope="session")
def finished_run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a DDU-Net of width 2 after two epochs on `scenes`; tests must not change it."""
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    model = ("--model", "ddunet", "--width", 2, "--size", 32, 64)
    command = ("train", "--data", scenes, "--run", run_dir, *model, "--batch-size", 2, "--workers", 0, "--epochs", 2)
    assert main([str(argument) for argument in command]) == 0
    return run_dir
