"""What several sections say alike: secrets by reference, addresses."""

import msgspec


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A secret by reference, never inline: exactly one of `file` (path) and `env` (variable name)."""

    file: str | None = None
    env: str | None = None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP address to listen on; `host` is an IP literal or a name, `port` 0 means any free one."""

    host: str
    port: int
