"""Check the container files without running them: how the compose files merge, and what holds for every service and image.

`make check` lints the same files with hadolint and check-jsonschema.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

DOCKER_COMPOSE = Path(sys.executable).with_name("docker-compose")
DOCKERFILES = sorted(ROOT.glob("Dockerfile.*"))


def merged_services(*files: str) -> dict[str, dict[str, Any]]:
    """Return the services of compose files as docker-compose merges them, those of all profiles included."""
    command = [DOCKER_COMPOSE, *(argument for name in files for argument in ("-f", name)), "--profile", "*", "config"]
    output = subprocess.run([*command, "--format", "json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(output)["services"]


SERVICES = merged_services("docker-compose.yml")
CPU_SERVICES = merged_services("docker-compose.yml", "docker-compose.cpu.yml")


def gpu_reservations(service: dict[str, Any]) -> list[dict[str, Any]]:
    resources = service.get("deploy", {}).get("resources", {})
    return [device for device in resources.get("reservations", {}).get("devices", []) if "gpu" in device["capabilities"]]


@pytest.mark.parametrize("name", ["train", "serve"])
def test_service_reserves_all_gpus(name: str) -> None:
    (device,) = gpu_reservations(SERVICES[name])
    assert device["driver"] == "nvidia" and device["count"] == -1  # docker-compose writes "all" as -1


@pytest.mark.parametrize("name", CPU_SERVICES)
def test_cpu_override_removes_gpu_reservations(name: str) -> None:
    assert gpu_reservations(CPU_SERVICES[name]) == []


def test_cpu_override_serves_without_torch_what_it_trains() -> None:
    assert CPU_SERVICES["serve"]["build"]["args"]["BACKEND"] == "cpu"
    assert CPU_SERVICES["serve"]["image"] != SERVICES["serve"]["image"]
    assert CPU_SERVICES["train"]["environment"]["TRAIN_EXPORT"] in ("fp32", "int8")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert all(port["host_ip"] == "127.0.0.1" for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["logging"]["options"]["max-size"]


def test_serve_reads_the_volume_that_train_writes() -> None:
    mounts = {name: {m["target"]: m for m in SERVICES[name]["volumes"]} for name in ("train", "serve")}
    (checkpoints,) = re.findall(r"SEGMENT_CHECKPOINTS=(\S+)", (ROOT / "Dockerfile.serve").read_text())
    written, read = mounts["train"]["/app/runs"], mounts["serve"][checkpoints]
    assert written["source"] == read["source"] and read["read_only"] and not written.get("read_only")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_installs_only_packages_with_known_hashes(path: Path) -> None:
    installs = re.findall(r"pip install .*", path.read_text())
    assert installs and all("--require-hashes" in command for command in installs)
