"""Follow the guides of docs/howto.md from beginning to end."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from core.checkpoints.checkpoint import PRETRAINED
from core.inference.segmenter import Segmenter
from tests.support.markdown import code_blocks, section
from tests.support.paths import ROOT
from tests.support.service_process import ServiceProcess
from training.synthetic.dataset import write_scene

pytestmark = pytest.mark.timeout(900)

HOWTO = (ROOT / "docs" / "howto.md").read_text()
OWN_DATA = section(HOWTO, "Your own data, with other classes")
CITYSCAPES = section(HOWTO, "Train on Cityscapes")
OTHER_PROGRAMS = section(HOWTO, "Use a model outside this project")


def run_command(line: str, cwd: Path, environment: dict[str, str]) -> None:
    completed = subprocess.run(shlex.split(line), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, f"{line}\n{completed.stdout}{completed.stderr}"


def test_own_data_guide_leads_to_served_masks(tmp_path: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    for language, code in code_blocks(OWN_DATA):
        if language == "python":
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
            continue
        for line in code.splitlines():
            if "python -m service" not in line and not line.startswith("curl"):  # these two run below, on a free port
                shortened = line.replace("--epochs 20", "--epochs 1").replace("--train 40 --val 10", "--train 8 --val 2")
                run_command(shortened, tmp_path, environment)
    (settings,) = re.findall(r"^ *(SEGMENT_.*) python -m service$", OWN_DATA, re.M)
    (image,) = re.findall(r"file=@(\S+) 'localhost", OWN_DATA)
    service = ServiceProcess(tmp_path, tmp_path, **dict(word.split("=") for word in settings.split()))
    try:
        service.wait_until_ready()
        response = httpx.post(f"{service.url}/segment?model=mine", files={"file": (tmp_path / image).read_bytes()})
        mask = np.asarray(Image.open(io.BytesIO(response.content)))
        assert mask.shape == (128, 256) and set(np.unique(mask)) <= {0, 1, 2, 3}
        assert response.headers["segment-backend"] == "openvino-fp32"
        assert httpx.post(f"{service.url}/evaluate?wait=true", timeout=120).status_code == 200
    finally:
        service.kill()


def test_cityscapes_guide_leads_to_report_and_submission(tmp_path: Path) -> None:
    """Runs the documented commands; only the batch size is smaller, like the data set."""
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            write_scene(tmp_path / "datasets" / "cityscapes", split, index, (64, 128), seed=0)
    small = {"TRAIN_EPOCHS": "1", "TRAIN_WIDTH": "2", "TRAIN_SIZE": "32 64", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **small, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    train, compare, predict = re.findall(r"^    (python -m training .*)$", CITYSCAPES, re.M)
    assert "--model ddunet" in train
    for line in (train, train.replace("ddunet", "unet"), train.replace("ddunet", "r2unet"), compare, predict):
        run_command(line.replace("--batch-size 32", "--batch-size 2"), tmp_path, environment)
    assert (tmp_path / "report" / "index.html").is_file()
    assert len(list((tmp_path / "submission").rglob("*.png"))) == 2


def test_snippets_for_other_programs_give_the_same_masks(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "street.jpg", tmp_path)
    shutil.copy(PRETRAINED / "ddunet.safetensors", tmp_path)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    for language, code in code_blocks(OTHER_PROGRAMS):
        if language == "python":
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
        for line in code.splitlines() if language == "bash" else ():
            run_command(line, tmp_path, environment)
    expected = Segmenter("ddunet", "cpu", "torch")(tmp_path / "street.jpg").labels
    for name, agreement in (("labels.png", 0.995), ("mask.png", 0.95)):  # the latter is resized in another way
        assert (np.asarray(Image.open(tmp_path / name)) == expected).mean() > agreement
