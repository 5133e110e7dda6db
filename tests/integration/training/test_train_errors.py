"""Tests of usage errors of `python -m training`: one line that names the flag or file, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.cli import Cli, usage_error

TINY = ("--width", 2, "--size", 32, 64, "--batch-size", 2, "--workers", 0)


class TestUsageErrors:
    """Each mistake is reported with exit code 2 and one line."""

    def test_existing_run_needs_resume(self, finished_run: Path, scenes: Path, cli: Cli) -> None:
        assert "--resume" in usage_error(cli, "train", "--model", "ddunet", "--data", scenes, "--run", finished_run)

    def test_resume_rejects_other_setting(self, finished_run: Path, cli: Cli) -> None:
        assert "--width" in usage_error(cli, "train", "--run", finished_run, "--resume", "--width", 3)

    def test_missing_data_directory(self, tmp_path: Path, cli: Cli) -> None:
        error = usage_error(cli, "train", "--model", "unet", "--data", tmp_path / "none", "--run", tmp_path / "r")
        assert "no such data directory" in error and "leftImg8bit" in error

    def test_unknown_model(self, cli: Cli) -> None:
        assert "known: unet, r2unet, ddunet" in usage_error(cli, "train", "--model", "vgg", "--data", "x")

    def test_unavailable_gpu(self, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        flags = ("--gpus", 1, "--run", tmp_path / "r", *TINY)
        assert "--gpus: 1 requested" in usage_error(cli, "train", "--model", "unet", "--data", scenes, *flags)

    def test_unknown_flag(self, cli: Cli) -> None:
        assert "training train --help" in usage_error(cli, "train", "--xyz", "red")
        assert "--xyz" in usage_error(cli, "train", "--xyz", "red")

    def test_unknown_flag_before_command(self, cli: Cli) -> None:
        assert "--xyz: unknown argument; see python -m training train --help" in usage_error(
            cli, "--xyz", "train", "--model", "unet"
        )

    def test_abbreviated_flag(self, cli: Cli) -> None:
        error = usage_error(cli, "train", "--model", "unet", "--learning-rat", "0.1")
        assert "--learning-rat: unknown argument (did you mean --learning-rate?)" in error

    def test_batch_larger_than_dataset(self, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        error = usage_error(cli, "train", "--model", "unet", "--data", scenes, "--run", tmp_path / "r", "--batch-size", 7)
        assert "--batch-size" in error and "6" in error

    def test_single_value_per_channel_for_batch_norm(self, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        flags = ("--batch-size", 1, "--size", 16, 16, "--run", tmp_path / "r")
        assert "--size" in usage_error(cli, "train", "--model", "unet", "--data", scenes, *flags)

    def test_file_that_is_no_checkpoint(self, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        path = tmp_path / "page.safetensors"
        path.write_text("<html>")
        assert "page.safetensors" in usage_error(cli, "evaluate", path, "--data", scenes)

    def test_init_from_other_architecture(self, scenes: Path, checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
        flags = ("--init", checkpoint, "--run", tmp_path / "r", "--batch-size", 2)
        assert "--init" in usage_error(cli, "train", "--model", "unet", "--data", scenes, *flags)

    def test_evaluation_data_with_other_classes(self, checkpoint: Path, plain_dataset: Path, cli: Cli) -> None:
        assert "the model has 19 classes" in usage_error(cli, "evaluate", checkpoint, "--data", plain_dataset)

    def test_label_value_outside_label_space(self, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
        Image.fromarray(np.full((48, 64), 9, np.uint8)).save(plain_dataset / "labels" / "train" / "0.png")
        error = usage_error(
            cli, "train", "--model", "unet", "--data", plain_dataset, "--run", tmp_path / "r", "--batch-size", 2
        )
        assert "labels/train/0.png" in error and "9" in error

    def test_run_dir_is_a_file(self, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "r"):
            assert "is a file" in usage_error(cli, "train", "--model", "unet", "--data", scenes, "--run", path)

    def test_report_path_is_a_directory(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        assert "--json" in usage_error(cli, "evaluate", checkpoint, "--data", scenes, "--json", tmp_path)

    def test_output_directory_is_a_file(self, checkpoint: Path, scenes: Path, tmp_path: Path, cli: Cli) -> None:
        (tmp_path / "file").touch()
        assert "is a file" in usage_error(cli, "synthesize", tmp_path / "file" / "x")
        assert "is a file" in usage_error(cli, "predict", checkpoint, scenes, "--out", tmp_path / "file")

    def test_score_at_input_with_native_resolution(self, checkpoint: Path, scenes: Path, cli: Cli) -> None:
        flags = ("--resolution", "native", "--score-at", "input")
        assert "--score-at input: with --resolution native" in usage_error(
            cli, "evaluate", checkpoint, "--data", scenes, *flags
        )

    @pytest.mark.parametrize("value", ["0.4", "1", "nan"])
    def test_threshold_below_half_or_not_below_one(self, value: str, checkpoint: Path, scenes: Path, cli: Cli) -> None:
        message = usage_error(cli, "evaluate", checkpoint, "--data", scenes, "--threshold", value)
        assert "--threshold: expected at least 0.5" in message

    def test_unavailable_device(self, checkpoint: Path, scenes: Path, cli: Cli) -> None:
        for device in ("cuda", "cuda:7", "cpu:3", "tpu"):
            assert f"device '{device}' is not available" in usage_error(
                cli, "evaluate", checkpoint, "--data", scenes, "--device", device
            )

    def test_truncated_image(self, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
        path = plain_dataset / "images" / "train" / "0.jpg"
        path.write_bytes(path.read_bytes()[:-40])
        assert "0.jpg: the image is damaged" in usage_error(
            cli, "train", "--model", "unet", "--data", plain_dataset, "--batch-size", 2, "--run", tmp_path / "r"
        )

    def test_image_without_label(self, plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
        (plain_dataset / "labels" / "val" / "0.png").unlink()
        assert "0.jpg has no label" in usage_error(
            cli, "train", "--model", "unet", "--data", plain_dataset, "--run", tmp_path / "r"
        )


def test_invalid_data_leaves_no_run_directory(plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    (plain_dataset / "labels" / "val" / "0.png").unlink()
    cli("train", "--model", "unet", "--data", plain_dataset, "--run", tmp_path / "r")
    assert not (tmp_path / "r").exists()
