"""Making the DynamoDB table, or bringing one that is there up to what it should be; several may do so at once."""

import time
from typing import Any, Final

from openmcp.sidecar.state import dynamoitems as items
from openmcp.sidecar.state.store import StoreUnavailable

_NOT_THERE: Final = "ResourceNotFoundException"
_IN_USE: Final = "ResourceInUseException"
"""Somebody else is making the table at this moment."""
_NOT_YET: Final = "ContinuousBackupsUnavailableException"
"""Of a table that was made some seconds ago."""
_ALREADY: Final = "TimeToLive is already enabled"
_NOT_KNOWN: Final = "UnknownOperationException"
"""DynamoDB Local has no backups."""
_PAUSE: Final = 2.0
"""Seconds between two attempts to switch on recovery."""
_ATTEMPTS: Final = 60


class TableMaker:
    """Works on one table by a client of botocore; blocks, and raises what the client raises."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def make(self) -> str:
        """Make the table unless it is there; TTL and point-in-time recovery are switched on in either case."""
        made = self._found() is None and self._created()
        self._client.get_waiter("table_exists").wait(
            TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 300}
        )
        self._compare(self._found())
        done = [f"created table {self._table}" if made else f"table {self._table} is there"]
        done += [self._expiry(), self._backups()]
        return "; ".join(filter(None, done))

    def _created(self) -> bool:
        """Ask for the table; False where somebody was faster."""
        from botocore.exceptions import ClientError

        try:
            self._client.create_table(**items.table(self._table))
        except ClientError as error:
            if error.response["Error"]["Code"] != _IN_USE:
                raise
            return False
        return True

    def _found(self) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.describe_table(TableName=self._table)["Table"]
        except ClientError as error:
            if error.response["Error"]["Code"] != _NOT_THERE:
                raise
            return None

    def _compare(self, found: Any) -> None:
        wanted = items.table(self._table)
        indexes = {one["IndexName"]: one["KeySchema"] for one in found.get("GlobalSecondaryIndexes", ())}
        missing = [
            one["IndexName"]
            for one in wanted["GlobalSecondaryIndexes"]
            if indexes.get(one["IndexName"]) != one["KeySchema"]
        ]
        if found["KeySchema"] != wanted["KeySchema"]:
            missing.insert(0, "the key pk")
        if missing:
            raise StoreUnavailable(
                f"DynamoDB table {self._table} is not one of ours: it lacks {', '.join(missing)}. Choose another name"
            )

    def _expiry(self) -> str:
        told = self._client.describe_time_to_live(TableName=self._table)["TimeToLiveDescription"]
        if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING"):
            return ""
        from botocore.exceptions import ClientError

        wanted = {"Enabled": True, "AttributeName": items.TTL_ATTRIBUTE}
        try:
            self._client.update_time_to_live(TableName=self._table, TimeToLiveSpecification=wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] != _IN_USE and _ALREADY not in error.response["Error"]["Message"]:
                raise
            return ""  # by somebody else
        return "time to live switched on"

    def _backups(self) -> str:
        from botocore.exceptions import ClientError

        for attempt in range(_ATTEMPTS):
            try:
                return self._recovery()
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == _NOT_KNOWN:
                    return "it has no point-in-time recovery here"
                if code != _NOT_YET or attempt == _ATTEMPTS - 1:
                    raise
            time.sleep(_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    def _recovery(self) -> str:
        told = self._client.describe_continuous_backups(TableName=self._table)["ContinuousBackupsDescription"]
        if told.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus") == "ENABLED":
            return ""
        wanted = {"PointInTimeRecoveryEnabled": True}
        self._client.update_continuous_backups(TableName=self._table, PointInTimeRecoverySpecification=wanted)
        return "point-in-time recovery switched on"
