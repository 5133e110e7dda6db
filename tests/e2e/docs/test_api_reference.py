"""Compare the tables of docs/api.md with the service, and run its commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from service.api.problems import STATUS_BY_CODE
from service.app import create_app
from service.metrics import Metrics
from service.settings import PREFIX, Settings, load_settings
from tests.support.markdown import bash_commands, section, table_rows
from tests.support.paths import ROOT
from tests.support.sample_images import decode_mask, encode_image
from tests.support.service_process import ServiceProcess

API = (ROOT / "docs" / "api.md").read_text()


def test_metrics_table_is_complete() -> None:
    rows = table_rows(section(API, "Load"))
    documented = {name.removesuffix("_total") for row in rows for name in re.findall(r"segment_[a-z_]+", row[0])}
    assert documented == {metric.name for metric in Metrics().registry.collect() if metric.name.startswith("segment_")}


def test_errors_table_lists_every_code_with_its_status() -> None:
    assert {code: int(status) for code, status, _ in table_rows(section(API, "Errors"))} == STATUS_BY_CODE


def test_settings_table_lists_every_setting_with_its_default() -> None:
    def format_default(value: object) -> str:
        return ":".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)

    expected = [
        [PREFIX + name.upper(), format_default(field.default), field.description]
        for name, field in Settings.model_fields.items()
    ]
    assert table_rows(section(API, "Settings")) == expected


def test_every_endpoint_is_documented(checkpoint: Path, tmp_path: Path) -> None:
    paths = create_app(load_settings(checkpoints=[checkpoint], state=tmp_path)).openapi()["paths"]
    names = {"{job_id}": "ID", "{name}": "NAME", "{index}": "INDEX"}
    documented = (re.sub(r"\{\w+\}", lambda match: names[match[0]], path) for path in paths)
    assert [path for path in documented if path not in API] == []


def test_commands_for_several_images_write_their_masks(checkpoint: Path, tmp_path: Path) -> None:
    for directory in ("docs", "drive"):
        (tmp_path / directory).mkdir()
    shutil.copy(ROOT / "docs" / "street.jpg", tmp_path / "docs")
    (tmp_path / "drive" / "1.png").write_bytes(encode_image())
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if not shutil.which("curl"):
        path.insert(0, str(ROOT / "tests" / "support" / "bin"))
    service = ServiceProcess(tmp_path, SEGMENT_CHECKPOINTS=checkpoint)
    try:
        service.wait_until_ready()
        for command in bash_commands(API):
            command = command.replace("localhost:8000", f"localhost:{service.port}")
            environment = {**os.environ, "PATH": ":".join(path)}
            subprocess.run(command, shell=True, cwd=tmp_path, env=environment, check=True)
    finally:
        service.kill()
    shapes = {file.name: decode_mask(file.read_bytes()).shape for file in (tmp_path / "masks").iterdir()}
    assert shapes == {"street.png": (360, 480), "1.png": (40, 60)}
