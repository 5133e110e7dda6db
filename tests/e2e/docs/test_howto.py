"""docs/howto.md walked through, and the errors of docs/troubleshooting.md looked up in the code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.service_process import ROOT, Process
from training.commands.synthesize import write_scene

HOWTO = (ROOT / "docs" / "howto.md").read_text()
OWN = HOWTO.split("\n## Your own data")[1].split("\n## ")[0]
TROUBLE = [
    line.split("|")[1].strip().strip("`") for line in (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()[6:]
]


def test_the_walk_from_a_folder_of_other_classes_to_a_mask(tmp_path: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    for kind, indented in re.findall(r" *```(bash|python)\n(.*?)```", OWN, re.DOTALL):
        block = re.sub(r"^   ", "", indented, flags=re.MULTILINE)
        if kind == "python":
            subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment, check=True)
            continue
        for line in block.splitlines():
            if "python -m service" in line or line.startswith("curl"):
                continue  # below, on another port
            words = shlex.split(line.replace("--epochs 20", "--epochs 1").replace("--train 40 --val 10", "--train 8 --val 2"))
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    service = Process(tmp_path, tmp_path, SEGMENT_DATA="mine", SEGMENT_MODEL="mine")
    try:
        service.until_ready()
        (name,) = re.findall(r"file=@(\S+) 'localhost", OWN)
        reply = httpx.post(f"{service.url}/segment?model=mine", files={"file": (tmp_path / name).read_bytes()})
        (tmp_path / "mask.png").write_bytes(reply.content)
        mask = np.asarray(Image.open(tmp_path / "mask.png"))
        assert mask.shape == (128, 256) and set(np.unique(mask)) <= {0, 1, 2, 3}
        assert reply.headers["segment-backend"] == "openvino-fp32"
        assert httpx.post(f"{service.url}/evaluate?wait=true", timeout=120).status_code == 200
    finally:
        service.process.kill()


def test_the_walk_of_cityscapes(tmp_path: Path) -> None:
    """The commands as they stand, but for the batch, which is larger than this data set."""
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            write_scene(tmp_path / "datasets" / "cityscapes", split, index, (64, 128), seed=0)
    small = {"TRAIN_EPOCHS": "1", "TRAIN_WIDTH": "2", "TRAIN_SIZE": "32 64", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **small, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    train, *rest = re.findall(r"^    (python -m training .*)$", HOWTO.split("\n## Your own data")[0], re.MULTILINE)
    assert "--model ddunet" in train and len(rest) == 2
    for line in (train, train.replace("ddunet", "unet"), train.replace("ddunet", "r2unet"), *rest):
        words = shlex.split(line.replace("--batch-size 32", "--batch-size 2"))
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "report" / "index.html").is_file() and len(list((tmp_path / "submission").rglob("*.png"))) == 2


@pytest.mark.parametrize("said", TROUBLE)
def test_what_the_table_quotes_is_what_the_code_says(said: str) -> None:
    if said in ("No module named training", "connectFullMesh failed", "SEGMENT_PORT"):  # Python's words, gloo's, a variable
        return
    code = " ".join(path.read_text() for room in ("core", "training", "service") for path in (ROOT / room).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    pattern = re.escape(said).replace(re.escape("..."), r"\{[^}]*\}")
    assert re.search(pattern, code), said


def test_the_table_is_long() -> None:
    assert len(TROUBLE) >= 20
