"""Train, evaluate and serve a small model on generated scenes, and segment one of them (`make demo`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.service_process import ServiceProcess

DEMO_DIR = Path("demo")
SCENES, RUN = DEMO_DIR / "scenes", DEMO_DIR / "runs" / "ddunet"
# Small images, a high learning rate with cosine decay and little scale augmentation converge within three minutes.
TRAIN_FLAGS = (
    "--width 16 --size 128 256 --batch-size 4 --epochs 10 --learning-rate 0.01 --schedule cosine --scale 0.9 1.2".split()  # noqa: SIM905
)


def training(*arguments: object) -> None:
    """Run `python -m training ARGUMENTS`."""
    subprocess.run([sys.executable, "-m", "training", *map(str, arguments)], check=True)


def segment(url: str, image: Path, output: Path) -> None:
    """Post an image as the body of a request and save the response."""
    response = httpx.post(url, content=image.read_bytes(), headers={"Content-Type": "image/png"}, timeout=60)
    response.raise_for_status()
    output.write_bytes(response.content)


def main() -> None:
    shutil.rmtree(DEMO_DIR, ignore_errors=True)
    print("1. Generate street scenes with a label for every pixel")
    training("synthesize", SCENES)
    print("2. Train a DDU-Net of width 16")
    training("train", "--model", "ddunet", "--data", SCENES, "--run", RUN, *TRAIN_FLAGS)
    print("3. Evaluate it")
    training("evaluate", RUN, "--data", SCENES, "--json", DEMO_DIR / "report.json")
    print("4. Serve it, and segment a validation scene")
    image = next(SCENES.glob("leftImg8bit/val/*/*.png"))
    service = ServiceProcess(DEMO_DIR, Path.cwd(), SEGMENT_CHECKPOINTS=RUN)
    try:
        service.wait_until_ready()
        segment(f"{service.url}/segment", image, DEMO_DIR / "mask.png")
        segment(f"{service.url}/segment?output=overlay&format=png", image, DEMO_DIR / "overlay.png")
    finally:
        service.process.terminate()
        service.process.wait()
    report = json.loads((DEMO_DIR / "report.json").read_text())
    print(f"mIoU {report['scores']['miou']:.3f}")
    for name, path in (
        ("image", image),
        ("mask", DEMO_DIR / "mask.png"),
        ("overlay", DEMO_DIR / "overlay.png"),
        ("checkpoint", RUN / "checkpoints" / "best.safetensors"),
        ("curves", RUN / "curves.png"),
    ):
        print(f"{name + ':':12}{path}")
    print(f"serve it:   SEGMENT_CHECKPOINTS={RUN} make serve")


if __name__ == "__main__":
    main()
