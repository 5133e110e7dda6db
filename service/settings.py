"""Settings of the service, each an environment variable `SEGMENT_<NAME>`."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.backends import BACKENDS
from core.errors import InputError
from core.images.decode import MAX_PIXELS, MAX_SIDE
from service.auth import Key, parse_keys

PREFIX = "SEGMENT_"


LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


def _split_paths(value: Any) -> Any:
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _split(value: Any) -> Any:
    return [part.strip().lower() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _hosts(value: list[str]) -> list[str]:
    """Names without the ports that some write behind them: the header is compared without, too."""
    return [re.sub(r"^([^:]+|\[.+\]):\d+$", r"\1", part) for part in value]


def _origins(value: list[str]) -> list[str]:
    if "*" in value:
        raise ValueError("`*` would let every page in; expected origins, as https://example.org")
    return [part.rstrip("/") for part in value]


def _parse_keys(value: Any) -> Any:
    try:
        return parse_keys(value) if isinstance(value, str) else value
    except InputError as error:
        raise ValueError(str(error)) from None


class Settings(BaseSettings):
    """What the service is told; docs/api.md lists the same."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    checkpoints: Annotated[list[Path], NoDecode, BeforeValidator(_split_paths)] = Field(
        default=[Path("runs")], description="checkpoint files, run folders and folders of them, separated by colons"
    )
    model: str | None = Field(None, description="name of the default model; the first one found where not told")
    device: str = Field(
        "auto",
        description="auto (all GPUs, the CPU where there is none), cpu, cuda:N, or some separated by commas"
        " (where both kinds are among them, `auto` is torch)",
    )
    backend: str = Field("auto", description=f"auto, {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}")
    data: Path | None = Field(None, description="data set that /evaluate scores on")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    state: Path = Field(Path("state"), description="folder for evaluation reports")
    api_keys: Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_parse_keys)] = Field(
        default=(),
        description="segment:KEY for pictures, operate:KEY for all, each of 16 characters or more, separated by commas;"
        " where not told, none is asked for",
    )
    allow_anonymous: bool = Field(False, description="1 permits an address other than loopback without keys")
    allowed_hosts: Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_hosts)] = Field(
        default=[],
        description="names that the service is called by, separated by commas; `*` is any;"
        " where not told, any if there are keys, else localhost and the address that it listens on",
    )
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_origins)] = Field(
        default=[], description="origins of pages of other sites that may call it, as https://example.org, separated by commas"
    )
    max_loaded: int = Field(3, ge=1, le=64, description="models in memory at most; the least recently used goes")
    max_bytes: int = Field(20_000_000, ge=1000, description="bytes of a request body at most")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="pixels of a photograph at most")
    max_side: int = Field(MAX_SIDE, ge=1, description="pixels of a photograph's longer side at most")
    threads: int = Field(4, ge=1, le=256, description="threads that decode pictures, and as many that encode masks")
    queue: int = Field(64, ge=1, le=100_000, description="requests to /segment inside at once; one more is told to come later")
    queue_megapixels: float = Field(200, gt=0, description="megapixels of their photographs at most")
    queue_bytes: int = Field(200_000_000, ge=1000, description="bytes of request bodies inside, or coming in, at most")
    deadline: float = Field(30, gt=0, description="seconds after which a request is given up that has not begun its inference")


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, one-line InputError naming the variable where one is wrong."""
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        got = "" if first["loc"][0] == "api_keys" else f" (got {first['input']!r})"  # a key is not for the log
        raise InputError(f"{name}: {first['msg'].removeprefix('Value error, ')}{got}") from None
    if settings.max_bytes > settings.queue_bytes:
        raise InputError(
            f"SEGMENT_MAX_BYTES: a body of {settings.max_bytes:,} bytes would never find room in SEGMENT_QUEUE_BYTES, which is"
            f" {settings.queue_bytes:,}; set that to several times as much"
        )
    if not settings.allow_anonymous and not settings.api_keys and not _is_loopback(settings.host):
        raise InputError(
            f"SEGMENT_HOST: {settings.host} can be reached from other machines, and no key is asked for; use 127.0.0.1, or"
            " set SEGMENT_API_KEYS, or SEGMENT_ALLOW_ANONYMOUS=1 where a proxy in front of it lets in whom it should"
        )
    return settings


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
