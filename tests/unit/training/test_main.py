"""Tests of training.__main__: parsing of command lines, errors of one line, and flags of earlier releases."""

from __future__ import annotations

import pytest

from core.errors import InputError
from training.__main__ import parse
from training.config import TrainConfig

PREDICT = ["predict", "ddunet", "street.jpg"]
EXPORT = ["export", "ddunet", "--to", "fp16"]


def test_flags_of_release_0_1_are_accepted_and_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse("predict", [*PREDICT, "--film", "mask"]).video == "mask"
    options = parse("export", [*EXPORT, "--licence", "CC0", "--limits", "day only"])
    assert (options.license, options.limitations) == ("CC0", "day only")
    for command, old_flag in (("predict", "--film"), ("export", "--licence"), ("export", "--limits")):
        with pytest.raises(SystemExit):
            parse(command, [command, "--help"])
        assert old_flag not in capsys.readouterr().out


def test_misspelled_flag_suggests_current_name() -> None:
    with pytest.raises(InputError, match=r"^--licenc: unknown argument \(did you mean --license\?\); see python -m training"):
        parse("export", [*EXPORT, "--licenc", "CC0"])


def test_unknown_backend_lists_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown backend 'tpu'; known: auto, torch, .*openvino-int8"):
        parse("predict", [*PREDICT, "--backend", "tpu"])


def test_help_describes_every_training_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("train", ["train", "--help"])
    text = capsys.readouterr().out
    for name, field in TrainConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text and field.description
