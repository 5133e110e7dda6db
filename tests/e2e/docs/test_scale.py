"""Check docs/scale.md: the Kubernetes manifest against its schema, and the Slurm script and torchrun commands on one host."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.settings import PREFIX, Settings, load_settings
from tests.support.paths import ROOT

pytestmark = pytest.mark.timeout(900)

MANIFESTS = list(yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text()))
DEPLOYMENT, SERVICE = MANIFESTS[:2]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_manifest_is_valid(manifest: dict) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_schema_rejects_unknown_field() -> None:
    wrong = {**SERVICE, "spec": {**SERVICE["spec"], "port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_manifest_uses_existing_settings_ports_and_paths() -> None:
    (container,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    assert {variable["name"] for variable in container["env"]} <= {PREFIX + name.upper() for name in Settings.model_fields}
    dockerfile = (ROOT / "Dockerfile.serve").read_text()
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in dockerfile
    for mount in container["volumeMounts"]:
        assert mount["mountPath"] in (*dockerfile.split(), "/tmp") or f"={mount['mountPath']}" in dockerfile


def test_service_selects_pods_of_deployment() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels


def test_variables_that_kubernetes_sets_for_the_service_do_not_break_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEPLOYMENT["spec"]["template"]["spec"].get("enableServiceLinks", True):  # Kubernetes' default
        monkeypatch.setenv(f"{SERVICE['metadata']['name'].upper()}_PORT", "tcp://10.96.3.4:80")
    load_settings(api_keys="segment:a-long-enough-key-of-letters")


def write_stub(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_slurm_script_trains_and_resumes_when_requeued(scenes: Path, tmp_path: Path) -> None:
    """Runs on one host, with a stub of `scontrol` that returns its name and one of `srun` that runs its command."""
    (tmp_path / "bin").mkdir()
    write_stub(tmp_path / "bin" / "scontrol", "echo localhost")
    write_stub(tmp_path / "bin" / "srun", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"PATH={tmp_path / 'bin'}:{Path(sys.executable).parent}:$PATH\n")
    slurm = {
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "2",
        "PYTHONPATH": str(ROOT),
    }
    script = tmp_path / "train.slurm"
    script.write_text((ROOT / "docs" / "train.slurm").read_text().replace("=gpu ", "=1 "))  # one process without a GPU
    flags = ("--model", "ddunet", "--data", scenes, "--width", 2, "--size", 32, 64, "--batch-size", 4)
    for epochs, expected in ((1, "epoch 1/1  loss"), (2, "resuming after epoch 1")):
        completed = subprocess.run(
            [*map(str, ("bash", script, *flags, "--epochs", epochs))],
            cwd=tmp_path,
            env={**os.environ, **slurm},
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0 and expected in completed.stdout, completed.stdout + completed.stderr
    assert (tmp_path / "runs" / "ddunet" / "checkpoints" / "best.safetensors").is_file()


def test_torchrun_commands_run_on_one_host(scenes: Path, tmp_path: Path) -> None:
    """Runs the documented commands with the names, directories and numbers of this host."""
    replacements = {
        "FIRST": "localhost",
        "/shared/cityscapes": str(scenes),
        "/shared/drive": str(scenes / "leftImg8bit" / "val"),
        "/shared/": f"{tmp_path}/",
        "--nnodes=1:4": "--nnodes=1",
        "--nnodes=2": "--nnodes=1",
        "--nproc-per-node=gpu": "--nproc-per-node=2",
        "--batch-size 256": "--batch-size 4",
    }
    small = {"TRAIN_EPOCHS": "1", "TRAIN_WIDTH": "2", "TRAIN_SIZE": "32 64", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **small, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    text = (ROOT / "docs" / "scale.md").read_text().replace(" \\\n", " ")
    train, predict = re.findall(r"^    (torchrun .*)$", text, re.M)
    for line in (train, predict):
        for documented, actual in replacements.items():
            line = line.replace(documented, actual)
        completed = subprocess.run(
            shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, f"{line}\n{completed.stdout}{completed.stderr}"
    assert (tmp_path / "runs" / "ddunet" / "checkpoints" / "best.safetensors").is_file()
    assert len(json.loads((tmp_path / "masks.json").read_text())["files"]) == 5
