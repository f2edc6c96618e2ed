"""Asking DynamoDB: botocore in threads of its own, regions, time limits, and its errors in our words."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec

from openmcp.sidecar.state import dynamoitems as items
from openmcp.sidecar.state.records import ApprovalRecord
from openmcp.sidecar.state.store import StoreUnavailable

T = TypeVar("T")

_THREADS: Final = 16
_CONNECT: Final = 2.0
_READ: Final = 3.0
"""Seconds; a request is tried twice at most."""

_PATIENCE: Final = 10.0
"""Seconds for all of it: waiting for a thread, credentials, the request."""

_BUSY: Final = ("ReplicatedWriteConflictException", "TransactionConflictException")
"""Another write on the item was under way, and this one was not done."""

_BUSY_ATTEMPTS: Final = 10
_CONDITION_FAILED: Final = "ConditionalCheckFailedException"


class Refused(msgspec.Struct, frozen=True):
    """A condition that did not hold, and the record as it is; None where there is none."""

    old: ApprovalRecord | None


class DynamoClient:
    """One table. `home` is the region of reads and writes that name none; empty: that of the sidecar, `region`."""

    def __init__(self, table: str, region: str, home: str, endpoint: str | None, session: Any) -> None:
        self._table = table
        self._region = region
        self._home = home
        self._endpoint = endpoint
        self._session = session
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="state-dynamodb")
        self._checked = False
        self.name = f"DynamoDB table {table} in {home or region}"

    async def call(self, operation: str, home: str, asked: Mapping[str, Any]) -> Any:
        """What an operation on the table answers."""
        return await self._run(lambda: self._call(operation, home, asked))

    async def attempt(self, operation: str, home: str, asked: Mapping[str, Any]) -> Any:
        """The same of a conditional write; `Refused` where its condition does not hold."""
        return await self._run(lambda: self._attempt(operation, home, asked))

    async def batch_get(self, keys: Sequence[str]) -> list[items.Item]:
        """The items of up to 100 records, read consistently, in no order."""
        return await self._run(lambda: self._batch_get(keys))

    async def on_client(self, work: Callable[[Any], T]) -> T:
        """Do this in a thread with botocore's client of the home region."""
        return await self._in_thread(lambda: work(self._client(self._home)))

    async def close(self) -> None:
        """End the threads; what waits for them fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            client.close()

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._in_thread(work)
        except TimeoutError:
            raise StoreUnavailable(f"{self.name}: no answer within {_PATIENCE:g} s") from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            waiting = loop.run_in_executor(self._threads, self._guarded, work)
        except RuntimeError as error:  # of the pool, once it is closed
            raise StoreUnavailable(f"{self.name}: it is closed") from error
        return await waiting

    # What follows runs in threads.

    def _guarded(self, work: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return work()
        except ClientError as error:
            raise StoreUnavailable(f"{self.name}: {self._said(error)}") from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(f"{self.name}: {error}") from error

    def _said(self, error: Any) -> str:
        said = error.response["Error"]
        if said.get("Code") == "ResourceNotFoundException":
            return "it does not exist: make it with `openmcp state create`"
        return f"{said.get('Code')}: {said.get('Message')}"

    def _attempt(self, operation: str, home: str, asked: Mapping[str, Any]) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._call(operation, home, asked)
        except ClientError as error:
            if error.response["Error"]["Code"] != _CONDITION_FAILED:
                raise
            old = error.response.get("Item")
            return Refused(items.record_of(old) if old and "doc" in old else None)

    def _call(self, operation: str, home: str, asked: Mapping[str, Any]) -> Any:
        from botocore.exceptions import ClientError

        client = self._client(home)
        self._check(client)
        for attempt in range(_BUSY_ATTEMPTS):
            try:
                return getattr(client, operation)(TableName=self._table, **asked)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _BUSY:
                    raise
                time.sleep(random.uniform(0, 0.02) * (attempt + 1))  # noqa: S311 - spreads retries
        raise StoreUnavailable(f"{self.name}: too many writes on one record at once")

    def _batch_get(self, keys: Sequence[str]) -> list[items.Item]:
        client = self._client(self._home)
        self._check(client)
        asked: Any = {self._table: {"Keys": [items.primary(key) for key in keys], "ConsistentRead": True}}
        found: list[items.Item] = []
        for attempt in range(4):
            answer = client.batch_get_item(RequestItems=asked)
            found += answer["Responses"].get(self._table, ())
            asked = answer.get("UnprocessedKeys")
            if not asked:
                return found
            time.sleep(0.05 * 2**attempt)
        raise StoreUnavailable(f"{self.name}: reads are throttled")

    def _client(self, region: str) -> Any:
        with self._making:  # making one is not for two threads at once; using one is
            if region not in self._clients:
                self._clients[region] = self._made(region or self._region)
            return self._clients[region]

    def _made(self, region: str) -> Any:
        from botocore.config import Config
        from botocore.session import Session

        session = self._session or Session()
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=_THREADS,
            tcp_keepalive=True,
        )
        return session.create_client("dynamodb", region_name=region, endpoint_url=self._endpoint, config=config)

    def _check(self, client: Any) -> None:
        """Once: refuse a table whose replicas would each decide by themselves."""
        if self._checked:
            return
        found = client.describe_table(TableName=self._table)["Table"]
        if found.get("Replicas") and found.get("MultiRegionConsistency") != "STRONG" and not self._home:
            raise StoreUnavailable(
                f"{self.name}: its replicas are eventually consistent, so that two regions could use one grant: "
                "set state.homeRegion, to the same region everywhere"
            )
        self._checked = True
