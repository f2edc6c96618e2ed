"""A record beside its JSON as fields that a store's conditions and counters work on.

The counters are newer than the JSON: uses and repeated questions change nothing else.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from openmcp.sidecar.state import lifecycle
from openmcp.sidecar.state.records import SCHEMA, ApprovalRecord, UnknownSchema, decode

ENDED: Final = "ended"
_ANY_NUMBER: Final = 10**15
"""Uses left of a grant without a number of uses: one condition fits all."""


def shelf(record: ApprovalRecord) -> str:
    """Which of the three lists a record is in: `pending`, `approved` or `ended`."""
    return record.status.value if record.status in lifecycle.LIVE else ENDED


def numbers(record: ApprovalRecord) -> dict[str, int]:
    """The fields that are numbers; what a record does not have is left out."""
    fields = {
        "schema": record.schema,
        "version": record.version,
        "pexp": record.pending_until,
        "gexp": record.grant_until,
        "uses": _ANY_NUMBER if record.uses_left is None else record.uses_left,
        "used": record.used,
        "lastUsed": record.last_used,
        "asked": record.asked,
        "lastAsked": record.last_asked,
        "cool": record.cooldown_until,
    }
    return {name: value for name, value in fields.items() if value is not None}


def merged(document: bytes, fields: Mapping[str, str]) -> ApprovalRecord:
    """The record of a JSON document with the newer counters. Raises `UnknownSchema`."""
    if fields.get("schema") != str(SCHEMA):
        raise UnknownSchema(
            f"a record in the state store has schema {fields.get('schema')}, this openmcp knows {SCHEMA}: "
            "run the same version everywhere"
        )
    record = decode(document)
    try:
        return msgspec.structs.replace(
            record,
            version=int(fields["version"]),
            uses_left=None if record.uses_left is None else int(fields["uses"]),
            used=int(fields["used"]),
            last_used=int(fields["lastUsed"]) if "lastUsed" in fields else None,
            asked=int(fields["asked"]),
            last_asked=int(fields["lastAsked"]),
        )
    except (KeyError, ValueError) as error:
        raise UnknownSchema(f"a record in the state store cannot be read: {error}") from None
