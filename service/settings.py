"""Settings of the service: each is an environment variable `SEGMENT_<NAME>`."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.backends.base import BACKENDS
from core.errors import InputError
from core.images.limits import MAX_PIXELS, MAX_SIDE
from core.runtime.environment import is_set_by_kubernetes
from service.auth import ApiKey, parse_keys

PREFIX = "SEGMENT_"
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
DEFAULT_PORT = 8000


def _split_paths(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _split(value: Any) -> Any:
    return [part.strip().lower() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _strip_ports(value: list[str]) -> list[str]:
    """Remove ports from host names, because the Host header is compared without its port."""
    return [re.sub(r"^([^:]+|\[.+\]):\d+$", r"\1", part) for part in value]


def _parse_origins(value: list[str]) -> list[str]:
    if "*" in value:
        raise ValueError("`*` would allow every website; expected origins such as https://example.org")
    return [part.rstrip("/") for part in value]


def _parse_keys(value: Any) -> Any:
    try:
        return parse_keys(value) if isinstance(value, str) else value
    except InputError as error:
        raise ValueError(str(error)) from None


def _ignore_kubernetes_port(value: Any) -> Any:
    return DEFAULT_PORT if isinstance(value, str) and is_set_by_kubernetes("SEGMENT_PORT", value) else value


class Settings(BaseSettings):
    """All settings with their defaults; docs/api.md has the same list."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    checkpoints: Annotated[list[Path], NoDecode, BeforeValidator(_split_paths)] = Field(
        default=[Path("runs")],
        description="checkpoint files, run directories, directories of these and names of bundled checkpoints, separated by"
        " colons",
    )
    model: str | None = Field(
        None,
        description="name of the default model; by default, the one with the highest mIoU of those that were scored on the"
        " same data as the first one that is found",
    )
    device: str = Field(
        "auto",
        description="auto (all GPUs, or the CPU if there are none), cpu, cuda:N, or several of these separated by commas"
        " (if CPU and GPUs are mixed, the backend `auto` is torch)",
    )
    backend: str = Field("auto", description=f"auto, {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}")
    data: Path | None = Field(None, description="dataset for /evaluate")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, BeforeValidator(_ignore_kubernetes_port)] = Field(
        DEFAULT_PORT, ge=0, le=65535, description="port to listen on; 0 selects a free one"
    )
    state: Path = Field(Path("state"), description="directory for evaluation reports")
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_parse_keys)] = Field(
        default=(),
        description="segment:KEY for images, admin:KEY for everything, each of 16 characters or more, separated by commas;"
        " by default, no key is required",
    )
    allow_anonymous: bool = Field(False, description="1 permits a non-loopback address without keys")
    allowed_hosts: Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_strip_ports)] = Field(
        default=[],
        description="accepted values of the Host header, separated by commas; `*` accepts any;"
        " by default, any if there are keys, else localhost and the address to listen on",
    )
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_parse_origins)] = Field(
        default=[],
        description="origins of other websites whose pages may call the service, such as https://example.org,"
        " separated by commas",
    )
    max_loaded: int = Field(3, ge=1, le=64, description="maximum number of loaded models; the least recently used is evicted")
    max_bytes: int = Field(20_000_000, ge=1000, description="maximum size of a request body in bytes")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="maximum number of pixels of an image")
    max_side: int = Field(MAX_SIDE, ge=1, description="maximum length of an image's longer side in pixels")
    threads: int = Field(4, ge=1, le=256, description="number of threads that decode images, and of those that encode masks")
    queue: int = Field(64, ge=1, le=100_000, description="maximum number of /segment requests in flight; more are refused")
    queue_megapixels: float = Field(200, gt=0, description="maximum number of megapixels of their images")
    queue_bytes: int = Field(200_000_000, ge=1000, description="maximum bytes of request bodies and responses in memory")
    deadline: float = Field(30, gt=0, description="seconds after which a request is refused if its inference has not begun")


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment.

    Args:
        overrides: Settings that take precedence over the environment.

    Raises:
        InputError: A variable is unknown or has an invalid value, or the combination of settings is unsafe.
    """
    _check_variable_names(os.environ)
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        value = "" if first["loc"][0] == "api_keys" else f" (got {first['input']!r})"  # Keys must not appear in the log.
        raise InputError(f"{name}: {first['msg'].removeprefix('Value error, ')}{value}") from None
    if settings.max_bytes > settings.queue_bytes:
        raise InputError(
            f"SEGMENT_MAX_BYTES: {settings.max_bytes:,} exceeds SEGMENT_QUEUE_BYTES, which is {settings.queue_bytes:,};"
            " set SEGMENT_QUEUE_BYTES to several times SEGMENT_MAX_BYTES"
        )
    if not settings.allow_anonymous:
        _check_keys(settings)
    return settings


def _check_variable_names(environment: Mapping[str, str]) -> None:
    """Raise InputError if a variable with the prefix is not a setting: a mistyped SEGMENT_API_KEYS would require no key."""
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    for name, value in environment.items():
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        if is_set_by_kubernetes(name, value):
            continue
        (nearest,) = difflib.get_close_matches(name.upper(), known, 1, cutoff=0)
        raise InputError(f"{name}: no such setting; did you mean {nearest}? `python -m service --help` lists all settings")


def _check_keys(settings: Settings) -> None:
    """Raise InputError if no key is required although keys or restricted access seem intended."""
    if settings.api_keys:
        return
    if any(name.upper() == "SEGMENT_API_KEYS" for name in os.environ):
        raise InputError(
            "SEGMENT_API_KEYS: is empty; expected segment:KEY or admin:KEY, separated by commas, or unset the variable,"
            " or set SEGMENT_ALLOW_ANONYMOUS=1 to require no key"
        )
    if not _is_loopback(settings.host):
        raise InputError(
            f"SEGMENT_HOST: {settings.host} can be reached from other computers, and no key is required; use 127.0.0.1,"
            " or set SEGMENT_API_KEYS, or set SEGMENT_ALLOW_ANONYMOUS=1 if a proxy in front of the service controls access"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
