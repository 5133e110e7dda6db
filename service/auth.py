"""API keys and their roles; only digests of the keys stay in memory, and they are compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import InputError

Role = Literal["segment", "admin"]
LEGACY_ROLES: dict[str, Role] = {"operate": "admin"}  # accepted until release 0.3
MIN_KEY_LENGTH = 16  # characters


@dataclass(frozen=True)
class ApiKey:
    """The SHA-256 digest of an API key, and its role; `admin` includes everything that `segment` permits."""

    role: Role
    digest: bytes

    def allows(self, role: Role) -> bool:
        """Return whether the key may be used if `role` is required."""
        return self.role in ("admin", role)


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Parse `ROLE:KEY` pairs separated by commas. Raises InputError, whose message never contains a key."""
    keys = tuple(_parse(number, part.strip()) for number, part in enumerate(text.split(","), 1) if part.strip())
    if not keys:
        raise InputError("contains no key; expected segment:KEY or admin:KEY, separated by commas, or unset the variable")
    return keys


def _parse(number: int, part: str) -> ApiKey:
    role, colon, key = part.partition(":")
    role = LEGACY_ROLES.get(role, role)
    if not colon or role not in get_args(Role):
        raise InputError(f"key {number} has no role; expected segment:KEY or admin:KEY, separated by commas")
    if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"key {number} is invalid; expected {MIN_KEY_LENGTH} or more ASCII characters without spaces and commas,"
            " for example the output of `openssl rand -hex 24`"
        )
    return ApiKey(role, _digest(key.encode()))  # type: ignore[arg-type]


def authenticate(keys: Iterable[ApiKey], authorization: str) -> ApiKey | None:
    """Return the key that an Authorization header contains as `Bearer KEY`, or None if it is not one of `keys`."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = _digest(key.strip().encode("utf-8", "surrogatepass"))
    match = None
    for candidate in keys:  # Compare with every key, so that the duration does not reveal which one matched.
        if hmac.compare_digest(candidate.digest, digest):
            match = candidate
    return match


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
