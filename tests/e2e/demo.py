"""What `make demo` runs: scenes, training, evaluation, the service and one picture over HTTP, from nothing to a mask."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

FOLDER = Path("demo")
SCENES, RUN, STATE = FOLDER / "scenes", FOLDER / "runs" / "ddunet", FOLDER / "state"
CHECKPOINT = RUN / "checkpoints" / "best.safetensors"
# small pictures, a high learning rate that falls to zero and little change of scale: most of it in three minutes
RECIPE = "--width 16 --size 128 256 --batch-size 4 --epochs 10 --learning-rate 0.01 --schedule cosine --scale 0.9 1.2".split()  # noqa: SIM905 -- as it is typed


def training(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "training", *map(str, arguments)], check=True)


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            if service.poll() is not None:
                raise SystemExit("the service did not start") from None
            time.sleep(0.1)
    raise SystemExit("the service did not become ready in a minute")


def post(url: str, photo: Path, target: Path) -> None:
    """The picture itself as the body; curl's -F file=@photo does the same as a form."""
    request = urllib.request.Request(url, photo.read_bytes(), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        target.write_bytes(reply.read())


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    print("1. drawing street scenes, a label for every pixel")
    training("synthesize", SCENES)
    print("2. training a DDU-Net of width 16")
    training("train", "--model", "ddunet", "--data", SCENES, "--run", RUN, *RECIPE)
    print("3. evaluating it")
    training("evaluate", RUN, "--data", SCENES, "--json", FOLDER / "report.json")
    print("4. serving it, and segmenting a validation scene")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"SEGMENT_CHECKPOINTS": str(RUN), "SEGMENT_PORT": str(port), "SEGMENT_STATE": str(STATE)}
    photo = next(SCENES.glob("leftImg8bit/val/*/*.png"))
    with (FOLDER / "service.log").open("wb") as log:
        service = subprocess.Popen([sys.executable, "-m", "service"], env={**os.environ, **settings}, stderr=log)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", service)
            post(f"http://127.0.0.1:{port}/segment", photo, FOLDER / "mask.png")
            post(f"http://127.0.0.1:{port}/segment?output=overlay&format=png", photo, FOLDER / "overlay.png")
        finally:
            service.terminate()
            service.wait()
    report = json.loads((FOLDER / "report.json").read_text())
    print(f"macro IoU {report['scores']['macro_iou']:.3f}")
    for name, path in (("photo", photo), ("mask", FOLDER / "mask.png"), ("overlay", FOLDER / "overlay.png"),
                       ("checkpoint", CHECKPOINT), ("curves", RUN / "curves.png")):  # fmt: skip
        print(f"{name + ':':12}{path}")
    print(f"serve it:   SEGMENT_CHECKPOINTS={RUN} make serve")


if __name__ == "__main__":
    main()
