"""Making the DynamoDB table, or bringing one that is there up to what it should be."""

from typing import Any, Final

from openmcp.sidecar.state import dynamoitems as items
from openmcp.sidecar.state.store import StoreUnavailable

_NOT_THERE: Final = "ResourceNotFoundException"
_NOT_KNOWN: Final = "UnknownOperationException"
"""DynamoDB Local has no backups."""


class TableMaker:
    """Works on one table by a client of botocore; blocks, and raises what the client raises."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def make(self) -> str:
        """Make the table unless it is there; TTL and point-in-time recovery are switched on in either case."""
        found = self._found()
        if found is None:
            self._client.create_table(**items.table(self._table))
            self._client.get_waiter("table_exists").wait(
                TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 300}
            )
        else:
            self._compare(found)
        done = [f"created table {self._table}" if found is None else f"table {self._table} is there"]
        done += [self._expiry(), self._backups()]
        return "; ".join(filter(None, done))

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
        wanted = {"Enabled": True, "AttributeName": items.TTL_ATTRIBUTE}
        self._client.update_time_to_live(TableName=self._table, TimeToLiveSpecification=wanted)
        return "time to live switched on"

    def _backups(self) -> str:
        from botocore.exceptions import ClientError

        try:
            told = self._client.describe_continuous_backups(TableName=self._table)["ContinuousBackupsDescription"]
            state = told.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus")
            if state == "ENABLED":
                return ""
            wanted = {"PointInTimeRecoveryEnabled": True}
            self._client.update_continuous_backups(TableName=self._table, PointInTimeRecoverySpecification=wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] != _NOT_KNOWN:
                raise
            return "it has no point-in-time recovery here"
        return "point-in-time recovery switched on"
