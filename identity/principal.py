"""The caller as the sidecar knows it: a name that was proven, and how."""

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """A verified caller: `name` in the forms of policy (`anonymous`, `key:<name>`), `method` says how it was proven."""

    name: str
    method: str


ANONYMOUS = Principal("anonymous", "none")
