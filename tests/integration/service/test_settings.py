"""Settings from environment variables: parsing, and errors that name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from service.settings import load_settings

KEY = "k" * 16


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SEGMENT_PORT", "http", "SEGMENT_PORT"),
        ("SEGMENT_MAX_LOADED", "0", "SEGMENT_MAX_LOADED"),
        ("SEGMENT_HOST", "0.0.0.0", "SEGMENT_ALLOW_ANONYMOUS=1"),
        ("SEGMENT_MAX_BYTES", "300000000", "SEGMENT_QUEUE_BYTES"),
    ],
)
def test_invalid_value_error_names_setting_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as error:
        load_settings()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SEGMENT_API_KEY", f"admin:{KEY}", "no such setting; did you mean SEGMENT_API_KEYS"),
        ("SEGMENT_PROT", "8001", "no such setting; did you mean SEGMENT_PORT"),
        ("segment_queues", "8", "no such setting; did you mean SEGMENT_QUEUE"),
        ("SEGMENT_API_KEYS", "", "is empty"),
        ("SEGMENT_API_KEYS", " ", "contains no key"),
        ("SEGMENT_API_KEYS", " , ,", "contains no key"),
    ],
)
def test_unknown_or_empty_variable_error_suggests_fix_without_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"{name}: {message}") as error:
        load_settings()
    assert "\n" not in str(error.value) and KEY[:3] not in str(error.value)


def test_kubernetes_service_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SEGMENT_PORT": "tcp://10.0.0.1:80",
        "SEGMENT_PORT_8000_TCP": "tcp://10.0.0.1:80",
        "SEGMENT_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SEGMENT_PORT_8000_TCP_PORT": "80",
        "SEGMENT_PORT_8000_TCP_PROTO": "tcp",
        "SEGMENT_SERVICE_HOST": "10.0.0.1",
        "SEGMENT_SERVICE_PORT": "80",
        "SEGMENT_SERVICE_PORT_HTTP": "80",
        "SEGMENT_API_PORT": "tcp://10.0.0.2:80",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 8000


def test_empty_api_keys_are_accepted_with_anonymous_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_API_KEYS", "")
    monkeypatch.setenv("SEGMENT_ALLOW_ANONYMOUS", "1")
    assert load_settings(host="0.0.0.0").api_keys == ()


def test_host_ports_and_origin_slashes_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_ALLOWED_HOSTS", "localhost:8000, a.b,[::1]:80,[::1]")
    monkeypatch.setenv("SEGMENT_CORS_ORIGINS", "https://a.b/,https://a.b:8443")
    settings = load_settings()
    assert settings.allowed_hosts == ["localhost", "a.b", "[::1]", "[::1]"]
    assert settings.cors_origins == ["https://a.b", "https://a.b:8443"]


def test_checkpoints_are_separated_by_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_CHECKPOINTS", "/a:/b/c")
    assert load_settings().checkpoints == [Path("/a"), Path("/b/c")]
