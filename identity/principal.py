"""The caller as the sidecar knows it: a name that was proven, and how."""

import msgspec


class Principal(msgspec.Struct, frozen=True, cache_hash=True):
    """A verified caller: `name` in the forms of policy (`anonymous`, `key:<name>`), `method` says how it was proven.

    `claims` are what else its credential proves, as pairs of name and text, sorted; none for most methods.
    """

    name: str
    method: str
    claims: tuple[tuple[str, str], ...] = ()


ANONYMOUS = Principal("anonymous", "none")
