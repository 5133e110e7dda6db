"""What docs/ offers for many machines: the manifest against Kubernetes' schema, the Slurm script with stand-ins for Slurm."""

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

ROOT = Path(__file__).parents[3]
MANIFESTS = list(yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text()))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_the_manifest_fits_the_schema_of_kubernetes(manifest: dict) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_with_a_mistake_does_not_fit_it() -> None:
    wrong = {**MANIFESTS[1], "spec": {**MANIFESTS[1]["spec"], "port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_manifest_names_settings_probes_and_places_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = MANIFESTS[0]["spec"]["template"]["spec"]["containers"]
    if MANIFESTS[0]["spec"]["template"]["spec"].get("enableServiceLinks", True):  # what Kubernetes then sets for each Service
        monkeypatch.setenv(f"{MANIFESTS[1]['metadata']['name'].upper()}_PORT", "tcp://10.96.3.4:80")
    load_settings(api_keys="segment:a-long-enough-key-of-letters")
    assert {each["name"] for each in container["env"]} <= {PREFIX + name.upper() for name in Settings.model_fields}
    dockerfile = (ROOT / "Dockerfile.serve").read_text()
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in dockerfile
    for mount in container["volumeMounts"]:
        assert mount["mountPath"] in (*dockerfile.split(), "/tmp") or f"={mount['mountPath']}" in dockerfile
    labels = MANIFESTS[0]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS[1]["spec"]["selector"] == MANIFESTS[0]["spec"]["selector"]["matchLabels"] == labels


def test_the_slurm_script_trains(scenes: Path, tmp_path: Path) -> None:
    """On one machine, with a `scontrol` that names it and an `srun` that runs what it is given."""
    stand_ins = {"scontrol": "echo localhost", "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"'}
    (tmp_path / "bin").mkdir()
    for name, does in stand_ins.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"PATH={tmp_path / 'bin'}:{Path(sys.executable).parent}:$PATH\n")
    slurm = {
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "2",
        "PYTHONPATH": str(ROOT),
    }
    small = ("--width", 2, "--size", 32, 64, "--batch-size", 4)
    script = tmp_path / "train.slurm"  # there are no GPUs here
    script.write_text((ROOT / "docs" / "train.slurm").read_text().replace("=gpu ", "=1 "))
    command = ["bash", script, "--model", "ddunet", "--data", scenes, *small]
    environment = {**os.environ, **slurm}
    for epochs, told in ((1, "epoch 1/1  loss"), (2, "going on after epoch 1")):  # the second time it is requeued
        again = [*map(str, command), "--epochs", str(epochs)]
        done = subprocess.run(again, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "runs" / "ddunet" / "checkpoints" / "best.safetensors").is_file()


def test_the_commands_for_several_machines_run_on_one(scenes: Path, tmp_path: Path) -> None:
    """As they stand in docs/scale.md, but for names, folders and numbers of what is not here."""
    text = (ROOT / "docs" / "scale.md").read_text().replace(" \\\n", " ")
    lines = re.findall(r"^    (torchrun .*)$", text, re.MULTILINE)
    here = {"FIRST": "localhost", "/shared/cityscapes": str(scenes), "/shared/drive": str(scenes / "leftImg8bit" / "val")}
    here |= {"/shared/": f"{tmp_path}/", "=1:4": "=1", "=2 ": "=1 ", "=gpu ": "=2 ", "--batch-size 256": "--batch-size 4"}
    small = {"TRAIN_EPOCHS": "1", "TRAIN_WIDTH": "2", "TRAIN_SIZE": "32 64", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **small, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        for there, own in here.items():
            line = line.replace(there, own)
        done = subprocess.run(shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert len(lines) == 2 and len(json.loads((tmp_path / "masks.json").read_text())["files"]) == 5
    assert (tmp_path / "runs" / "ddunet" / "checkpoints" / "best.safetensors").is_file()
