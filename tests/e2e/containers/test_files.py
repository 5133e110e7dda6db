"""Container files, checked without an engine; building and running them is for a machine that has one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_hadolint_finds_nothing() -> None:
    files = ["Dockerfile.train", "Dockerfile.serve"]
    done = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "warning", *files], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def test_compose_file_fits_its_schema() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["Dockerfile.train", "Dockerfile.serve"])
def test_images_are_slim_by_argument_and_not_root(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text.index("ARG BASE_IMAGE=python:3.11-slim-bookworm") < text.index("FROM ${BASE_IMAGE}")
    assert "\nUSER app\n" in text
    assert "--require-hashes" in text


def test_the_contract_s_services_are_there() -> None:
    assert {"train", "serve", "tensorboard"} == set(COMPOSE["services"])


def test_arguments_of_run_train_reach_the_train_command() -> None:
    assert COMPOSE["services"]["train"]["entrypoint"] == ["python", "-m", "training", "train"]


def test_the_file_for_a_machine_without_a_gpu_takes_away_the_gpus_and_torch() -> None:
    class Loader(yaml.SafeLoader):
        """Knows compose's tag for taking a value away."""

    Loader.add_constructor("!reset", lambda loader, node: "reset")
    without = yaml.load((ROOT / "docker-compose.cpu.yml").read_text(), Loader)["services"]
    with_gpus = {name for name, settings in COMPOSE["services"].items() if "deploy" in settings}
    assert {name: settings.pop("deploy") for name, settings in without.items()} == dict.fromkeys(with_gpus, "reset")
    assert without["train"] == {"environment": {"TRAIN_EXPORT": "fp32"}}
    assert without["serve"] == {"build": {"args": {"BACKEND": "cpu"}}, "image": "project-serve-cpu"}


@pytest.mark.parametrize("service", ["train", "serve"])
def test_all_gpus_are_reserved(service: str) -> None:
    (device,) = COMPOSE["services"][service]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


@pytest.mark.parametrize("service", ["serve", "tensorboard"])
def test_ports_are_published_on_this_machine_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][service]["ports"])


def test_serve_reads_what_train_writes() -> None:
    train, serve = (COMPOSE["services"][name] for name in ("train", "serve"))
    assert "runs:/app/runs" in train["volumes"] and "runs:/app/runs:ro" in serve["volumes"]
    assert "SEGMENT_CHECKPOINTS=/app/runs" in (ROOT / "Dockerfile.serve").read_text()


@pytest.mark.parametrize("service", ["train", "serve", "tensorboard"])
def test_containers_are_guarded(service: str) -> None:
    settings = COMPOSE["services"][service]
    assert settings["read_only"] is True and settings["cap_drop"] == ["ALL"]
    assert settings["logging"]["options"]["max-size"]
