"""Compare the tables of docs/api.md with the service."""

from __future__ import annotations

import re
from pathlib import Path

from service.api.problems import STATUS_BY_CODE
from service.app import create_app
from service.metrics import Metrics
from service.settings import PREFIX, Settings, load_settings
from tests.support.markdown import section, table_rows
from tests.support.paths import ROOT

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
    assert [path for path in paths if path.replace("{job_id}", "ID").replace("{name}", "NAME") not in API] == []
