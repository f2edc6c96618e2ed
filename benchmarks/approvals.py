"""What asking for approval costs on each store, and how long a decision takes to wake a call of another process.

    python -m benchmarks.approvals                     latency on every store
    python -m benchmarks.approvals --wake              50 sidecars wait, another process decides

Redis and DynamoDB Local are started over loopback: real networks and the real DynamoDB add their own way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import botocore.session

from openmcp.config.model import Approval, Workflow
from openmcp.sidecar.approvals.service import ApprovalService, Granted, Pending
from openmcp.sidecar.approvals.values import Limits, Question, Spec
from openmcp.sidecar.policy.decision import RuleRef
from openmcp.sidecar.state.dynamodb import DynamoStore
from openmcp.sidecar.state.memory import MemoryStore
from openmcp.sidecar.state.records import Choice, Vote
from openmcp.sidecar.state.redis import RedisStore
from openmcp.sidecar.state.sqlite import SqliteStore
from openmcp.sidecar.state.store import StateStore
from tests.support.stores import dynamodb_local, redis_server

SESSION = botocore.session.Session()
SESSION.set_credentials("testing", "testing")
Connect = Callable[[], StateStore]
LEADS = Workflow(name="leads", approvers=("token:ann",))


def now() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def spec(max_uses: int | None) -> Spec:
    """A rule that binds one argument."""
    rule = RuleRef("tickets", "refunds", "requireApproval")
    return Spec(rule, Approval(workflow="leads", show=("$.id",), bind=("$.id",), max_uses=max_uses), LEADS)


def question(number: int) -> Question:
    """A call about one ticket."""
    arguments = {"id": f"T-{number}", "note": "x" * 200}
    return Question(
        agent="spiffe://acme.example/ns/support/sa/agent",
        identified_by="mtls",
        server="tickets",
        method="tools/call",
        name="refund",
        arguments=arguments,
    )


def service(store: StateStore) -> ApprovalService:
    """A sidecar's service without caps."""
    limits = Limits(open_requests=1_000_000)
    return ApprovalService(store, now, lambda: f"apr_{secrets.token_hex(13)}", limits, lambda event: None)


async def each(many: int, what: Callable[[int], Awaitable[object]]) -> list[float]:
    """Milliseconds of each of so many, one after the other."""
    found = []
    for number in range(many):
        began = time.perf_counter()
        await what(number)
        found.append((time.perf_counter() - began) * 1000)
    return found


def told(name: str, times: list[float]) -> None:
    """Print the distribution."""
    parts = statistics.quantiles(times, n=100)
    print(f"  {name:34} p50 {parts[49]:7.2f} ms   p95 {parts[94]:7.2f} ms   p99 {parts[98]:7.2f} ms")


async def latency(name: str, connect: Connect, many: int) -> None:
    """Print what each verb takes on one store."""
    store = connect()
    await store.create()
    asking = service(store)
    print(name)
    limited = spec(10_000)
    pending: list[Pending] = []

    async def ask(number: int) -> None:
        answer = await asking.ask(question(number), (limited,))
        assert isinstance(answer, Pending)
        pending.append(answer)

    async def vote(number: int) -> None:
        await asking.vote(pending[number].record, Vote(approver="token:ann", choice=Choice.APPROVE, at=0))

    async def use(number: int) -> None:
        answer = await asking.ask(question(0), (limited,))
        assert isinstance(answer, Granted)
        await answer.claim()

    told("ask, new", await each(many, ask))
    told("vote", await each(many, vote))
    told("ask and claim, counted uses", await each(many, use))
    told(
        "poll of 100 waiting calls",
        await each(many, lambda _: store.get_many([p.record.key for p in pending[:100]], now())),
    )

    record = pending[1].record
    began = time.perf_counter()
    await asyncio.gather(*(store.consume(record.key, record.rid, now()) for _ in range(200)))
    print(f"  200 uses of one grant at once      {200 / (time.perf_counter() - began):7.0f} uses/s")
    await store.close()


async def wake(name: str, connect: Connect, sidecars: int, rounds: int) -> None:
    """Print how long decisions of another process take to wake calls that so many sidecars hold."""
    deciding = connect()
    await deciding.create()
    stores = [connect() for _ in range(sidecars)]
    services = [service(store) for store in stores]
    delays: list[float] = []
    decided: dict[str, float] = {}
    began, cpu = time.perf_counter(), time.process_time()

    async def held(one: ApprovalService, number: int) -> None:
        answer = await one.ask(question(number), (spec(1),))
        assert isinstance(answer, Pending)
        found = await one.wait(answer.record, 120)
        assert found is not None
        delays.append(time.perf_counter() - decided[found.key])

    async def approver(number: int) -> None:
        await asyncio.sleep(random.uniform(2, 25))
        page = await deciding.list_pending(now(), 1000)
        for record in page.records:
            if record.shown == (("$.id", f'"T-{number}"'),):
                await deciding.vote(
                    record.key, record.rid, Vote(approver="token:ann", choice=Choice.APPROVE, at=0), now()
                )
                decided[record.key] = time.perf_counter()

    base = secrets.randbits(40)
    for turn in range(rounds):
        numbers = [base + turn * sidecars + n for n in range(sidecars)]
        calls = [held(one, number) for one, number in zip(services, numbers, strict=True)]
        await asyncio.gather(*calls, *(approver(number) for number in numbers))
    took = time.perf_counter() - began
    reads = sum(one.wakeup.reads for one in services)
    parts = statistics.quantiles(delays, n=100)
    print(
        f"{name}: {sidecars} sidecars, {len(delays)} decisions: p50 {parts[49]:.2f} s, p95 {parts[94]:.2f} s, "
        f"most {max(delays):.2f} s; {reads / took / sidecars:.2f} reads/s per sidecar; "
        f"CPU of all of them {100 * (time.process_time() - cpu) / took:.0f} %"
    )
    for one in services:
        await one.close()
    for store in (*stores, deciding):
        await store.close()


@contextlib.asynccontextmanager
async def all_stores() -> AsyncIterator[dict[str, Connect]]:
    """How to connect to each."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "redis").mkdir()
        redis = stack.enter_context(redis_server(Path(folder) / "redis"))
        dynamodb = stack.enter_context(dynamodb_local())
        yield {
            "memory": MemoryStore,
            "sqlite": lambda: SqliteStore(Path(folder) / "state.db"),
            "redis": lambda: RedisStore(redis.url),
            "dynamodb": lambda: DynamoStore("approvals", "eu-west-1", endpoint=dynamodb.url, session=SESSION),
        }


async def measure(options: argparse.Namespace) -> None:
    """Measure what was asked for."""
    async with all_stores() as stores:
        for name, connect in stores.items():
            if options.store and name not in options.store:
                continue
            if not options.wake:
                await latency(name, connect, options.many)
            elif name != "memory":
                await wake(name, connect, options.sidecars, options.rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", action="append", help="this one alone; may be given again")
    parser.add_argument("--many", type=int, default=300, help="calls of each kind")
    parser.add_argument("--wake", action="store_true")
    parser.add_argument("--sidecars", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    asyncio.run(measure(parser.parse_args()))
