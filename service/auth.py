"""Keys: who may do what; kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from core.errors import InputError

Role = Literal["segment", "operate"]
SHORTEST = 16  # characters of a key


@dataclass(frozen=True)
class Key:
    """A key's digest and its role; `operate` may do what `segment` may, too."""

    role: Role
    digest: bytes

    def may(self, role: Role) -> bool:
        """Whether it opens what needs a role."""
        return self.role in ("operate", role)


def parse_keys(text: str) -> tuple[Key, ...]:
    """`ROLE:KEY` separated by commas. Raises InputError, which tells no key."""
    keys = tuple(_parse(number, part.strip()) for number, part in enumerate(text.split(","), 1) if part.strip())
    if not keys:
        raise InputError("holds no key; expected segment:KEY or operate:KEY, or nothing at all")
    return keys


def _parse(number: int, part: str) -> Key:
    role, colon, key = part.partition(":")
    if not colon or role not in get_args(Role):
        raise InputError(f"key {number} has no role; expected segment:KEY or operate:KEY, separated by commas")
    if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"key {number} can't be taken; expected {SHORTEST} or more ASCII characters without spaces and commas,"
            " as `openssl rand -hex 24` makes them"
        )
    return Key(role, _digest(key.encode()))  # type: ignore[arg-type]


def find(keys: Iterable[Key], authorization: str) -> Key | None:
    """The key that an Authorization header carries as `Bearer KEY`, where it is one of these."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = _digest(given.strip().encode("utf-8", "surrogatepass"))
    found = None
    for key in keys:  # all of them: how long it takes tells nothing
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
