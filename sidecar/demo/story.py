"""The story itself: what each part shows, and what has to come out for it to be true."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from openmcp.sidecar.demo.agent import Agent, Answer, connected
from openmcp.sidecar.demo.human import HUMAN_SECONDS, Human
from openmcp.sidecar.demo.record import Record, Row
from openmcp.sidecar.demo.screen import Screen
from openmcp.sidecar.demo.setting import AGENT, OLD_AGENT, PAGE_SECONDS, Setting

NEWEST: Final = "2026-07-28"
BEFORE: Final = "2025-11-25"
SEEN: Final = ["search_tickets", "get_ticket", "get_customer", "refund", "export_tickets"]
HIDDEN: Final = ["delete_ticket", "reset_password"]
CUSTOMER: Final = "jane.doe@customer.example"
INVOICE: Final = "2: Invoice shows the old address"
GRANT_SECONDS: Final = 8.0
"""As long as the approval of the configuration holds."""
RECORD_SECONDS: Final = 20.0
"""How long the record may take to hold what happened; it is written within some 10 ms."""

CALLS: Final = [
    (AGENT, "tools/call search_tickets", "allow"),
    (AGENT, "tools/call delete_ticket", "deny"),
    (AGENT, "tools/call get_customer", "allow"),
    (AGENT, "tools/call refund", "deny"),
    (AGENT, "tools/call refund", "approved"),
    (AGENT, "tools/call refund", "approved"),
    (AGENT, "tools/call refund", "requireApproval"),
    (AGENT, "tools/call refund", "requireApproval"),
    (AGENT, "tools/call export_tickets", "allow"),
    (AGENT, "tools/call reset_password", "deny"),
    (AGENT, "tools/call no_such_tool", "deny"),
    (OLD_AGENT, "tools/call search_tickets", "allow"),
]
"""What the record has to say about the calls, in this order."""


class Story:
    """One performance. `surprises` counts what did not come out as told."""

    def __init__(self, screen: Screen, setting: Setting, record: Record, human: Human) -> None:
        self._screen = screen
        self._setting = setting
        self._record = record
        self._human = human
        self._began = time.time()
        self.surprises = 0

    async def play(self) -> None:
        """All parts that agents have a role in. A part that breaks off counts as a surprise; the next is played."""
        key = self._setting.keys[AGENT]
        async with connected(self._setting.url, key) as agent, connected(self._setting.server_url) as direct:
            for part in (
                self._lists,
                self._allowed,
                self._denied,
                self._redacted,
                self._approved,
                self._granted,
                self._streams,
                self._unknown,
            ):
                await self._attempt(part, agent, direct)
        async with (
            connected(self._setting.url, self._setting.keys[OLD_AGENT], mode="legacy") as old,
            connected(self._setting.server_url) as direct,
        ):
            await self._attempt(self._legacy, old, direct)
        await self._show_record()

    async def _attempt(self, part: Callable[[Agent, Agent], Awaitable[None]], agent: Agent, direct: Agent) -> None:
        try:
            await part(agent, direct)
        except Exception as error:  # whatever the SDK raises: the story must go on, and say so
            self._check(f"this part broke off: {type(error).__name__}: {error}", good=False)

    def _check(self, told: str, *, good: bool, found: object = None) -> None:
        self.surprises += not good
        self._screen.checked(told if good or found is None else f"{told}: no, found {found!r}", good=good)

    async def _lists(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("An agent connects and lists its tools")
        everything, seen = await direct.tools(), await agent.tools()
        self._screen.compare(
            ("the server has", f"{AGENT} sees"), [(name, name if name in seen else "-") for name in everything]
        )
        self._check(
            f"{AGENT} speaks MCP {NEWEST} through the sidecar", good=agent.version == NEWEST, found=agent.version
        )
        good = sorted(everything) == sorted(SEEN + HIDDEN) and seen == SEEN
        self._check("it sees the tools it may call, and no others", good=good, found=seen)

    async def _allowed(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("A call that policy allows")
        answer = await agent.call("search_tickets", text="invoice")
        self._calls("search_tickets(text='invoice')", answer)
        self._check("the call reached the server, and its answer the agent", good=answer.text == INVOICE)

    async def _denied(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("A call that policy denies")
        answer = await agent.call("delete_ticket", number="2")
        self._calls("delete_ticket(number='2')", answer)
        good = answer.refused and "deleting tickets is left to people" in answer.text
        self._check("the agent's model gets to read why, and can do something else", good=good, found=answer.text)
        still = await direct.call("get_ticket", number="2")
        self._check("the server never saw the call: ticket 2 is still there", good=still.text in INVOICE)

    async def _redacted(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("An answer that says too much")
        whole, answer = await direct.call("get_customer", number="2"), await agent.call("get_customer", number="2")
        self._screen.say("the server says:")
        self._screen.quote(whole.text)
        self._screen.say(f"{AGENT} gets:")
        self._screen.quote(answer.text)
        good = answer.text == whole.text.replace(CUSTOMER, "[redacted:email]")
        self._check("the customer's address is taken out, the colleague's stays", good=good, found=answer.text)

    async def _approved(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("A call that a human has to approve")
        too_much = await agent.call("refund", number="2", amount=4000)
        self._calls("refund(number='2', amount=4000)", too_much)
        good = too_much.refused and "no policy allows this" in too_much.text
        self._check("4000 are beyond what can be asked for", good=good, found=too_much.text)
        self._screen.say("refund(number='2', amount=40) ->")
        asking = agent.watch("refund", self._progress, 2 * HUMAN_SECONDS, number="2", amount=40)
        call = asyncio.create_task(asking)
        try:
            await self._human.approve(call)
            answer = await call
        finally:
            call.cancel()
        self._screen.quote(answer.text, style="red" if answer.refused else "yellow")
        good = not answer.refused and answer.text == "40 paid back for ticket 2"
        self._check("40 waited for a human, and were paid once they agreed", good=good, found=answer.text)

    def _progress(self, seconds: float, text: str) -> None:
        self._screen.quote(f"{seconds:5.2f} s  {text}")

    async def _granted(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("What was approved, and what was not")
        again = await agent.call("refund", number="2", amount=40)
        self._calls("refund(number='2', amount=40)", again)
        self._check("the same call passes, and nobody is asked again", good=not again.refused, found=again.text)
        other = await agent.call("refund", number="3", amount=40)
        self._calls("refund(number='3', amount=40)", other)
        good = other.refused and 'a human must approve refund(number="3", amount=40)' in other.text
        self._check("another ticket is another question: nothing was paid", good=good, found=other.text)
        self._screen.say(f"The approval holds for {GRANT_SECONDS:.0f} seconds; after them:")
        await asyncio.sleep(GRANT_SECONDS)
        late = await agent.call("refund", number="2", amount=40)
        self._calls("refund(number='2', amount=40)", late)
        good = late.refused and "a human must approve refund" in late.text
        self._check("the approval has ended: a human is asked anew", good=good, found=late.text)

    async def _streams(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("A call that reports its progress")
        heard: list[float] = []

        def progress(seconds: float, text: str) -> None:
            heard.append(seconds)
            self._screen.quote(f"{seconds:5.2f} s  {text}")

        began = time.monotonic()
        answer = await agent.watch("export_tickets", progress)
        took = time.monotonic() - began
        self._screen.quote(f"{took:5.2f} s  {answer.text}")
        good = len(heard) == 3 and took - heard[0] > PAGE_SECONDS  # of two more pages, each
        self._check("each message came when the server sent it, not at the end", good=good, found=heard)

    async def _unknown(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("A tool that is hidden, and one that does not exist")
        hidden = await agent.call("reset_password", user="root")
        absent = await agent.call("no_such_tool")
        self._calls("reset_password(user='root')", hidden)
        self._calls("no_such_tool()", absent)
        good = hidden.refused and _undated(hidden) == _undated(absent)
        self._check("both get the same answer: it does not tell which tools there are", good=good)

    async def _legacy(self, agent: Agent, direct: Agent) -> None:
        self._screen.act("An older agent, on the same path")
        seen = await agent.tools()
        self._screen.say(f"{OLD_AGENT} has another key, and may only search: it sees {', '.join(seen)}.")
        answer = await agent.call("search_tickets", text="csv")
        self._calls("search_tickets(text='csv')", answer)
        self._check(f"it speaks MCP {BEFORE}, with a session", good=agent.version == BEFORE, found=agent.version)
        good = seen == ["search_tickets"] and answer.text.startswith("3: ")
        self._check("its own policy holds for it", good=good, found=seen)

    def _calls(self, call: str, answer: Answer) -> None:
        self._screen.say(f"{call} ->")
        self._screen.quote(answer.text, style="red" if answer.refused else "yellow")

    async def _show_record(self) -> None:
        self._screen.act("The record of all this")
        rows = await self._recorded()
        self._screen.record(rows, self._began)
        denied = next((line for line in self._record.lines if '"delete_ticket"' in line), "")
        self._screen.say("\nOne line of it, as it was written when delete_ticket was called:")
        self._screen.quote(denied, style="dim")
        found = _calls(rows)
        self._check("who called what, and what was decided: nothing is missing", good=found == CALLS, found=found)

    async def _recorded(self) -> list[Row]:
        rows: list[Row] = []
        until = time.monotonic() + RECORD_SECONDS
        while len(_calls(rows)) < len(CALLS) and time.monotonic() < until:
            rows += self._record.more()
            await asyncio.sleep(0.02)  # a file has no event to wait for
        return rows


def _calls(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [row.summary for row in rows if row.what.startswith("tools/call ")]


def _undated(answer: Answer) -> str:
    """The answer without the id of the decision, by which it is found in the record."""
    return re.sub(r"decision [0-9a-f]+", "decision", answer.text)
