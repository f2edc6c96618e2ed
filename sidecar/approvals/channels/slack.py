"""Requests in a Slack channel: a message with buttons, dialogues, and what approvers say in them.

Who decides is the Slack user whose id is on the workflow's list, of the workspace that the app is installed in: ids
are unique within one. Slack is answered at once; what takes time is done afterwards. Whatever Slack sends twice is
counted once, since votes are.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec

from openmcp.sidecar.approvals.card import card_of
from openmcp.sidecar.approvals.channels import slackblocks as blocks
from openmcp.sidecar.approvals.channels.channel import ChannelFailed
from openmcp.sidecar.approvals.channels.slackapi import SlackApi, SlackRefused
from openmcp.sidecar.approvals.console.decisions import BadForm, reason_of, refusal, vote_of
from openmcp.sidecar.approvals.console.settings import Person
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.state.lifecycle import Conflict
from openmcp.sidecar.state.records import ApprovalRecord, Choice, UnknownSchema
from openmcp.sidecar.state.store import StoreUnavailable

_log = logging.getLogger("openmcp.approvals")

_AT_ONCE: Final = 2.0
"""Seconds that a decision may take before Slack is answered without its outcome: Slack waits for three."""

_NOT_THERE: Final = ("message_not_found", "edit_window_closed", "cant_update_message")
"""Somebody has deleted the message, or it is too old to be changed: nothing is wrong with the channel."""

_USER: Final = re.compile("[UW][A-Z0-9]{2,30}")
_CHOICES: Final = {blocks.APPROVE: Choice.APPROVE, blocks.DENY: Choice.DENY}
_GONE: Final = "This request is over, or the same question was asked anew since then."
_AWAY: Final = "The store of approvals is away. Nothing was counted: try again in a moment."

Answer = dict[str, Any] | None
"""What Slack is told in return: the body, None for an empty one."""


class _Aim(msgspec.Struct, frozen=True):
    """What a dialogue is about: kept by Slack in its private_metadata."""

    rid: str
    choice: Choice


class Slack:
    """One channel in Slack. `page` gives a request's link, empty without a console; `clock` tells Unix milliseconds."""

    updates = True

    def __init__(
        self,
        channel: tuple[str, str],
        api: SlackApi,
        service: ApprovalService,
        clock: Callable[[], int],
        page: Callable[[str], str],
    ) -> None:
        """`channel` is its name here, and its id in Slack."""
        self.name, self.channel = channel
        self._api = api
        self._service = service
        self._clock = clock
        self._page = page
        self._home = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, record: ApprovalRecord, now: int) -> str:
        """See `Channel`."""
        made = await self._api.call("chat.postMessage", self._message(record, now) | _AS_IT_IS)
        return f"{made.get('channel', self.channel)}:{made['ts']}" if isinstance(made.get("ts"), str) else "sent"

    async def update(self, record: ApprovalRecord, reference: str, now: int) -> None:
        """See `Channel`."""
        channel, _, ts = reference.partition(":")
        if ts:
            said = self._message(record, now) | {"channel": channel, "ts": ts, "parse": "none", "link_names": False}
            try:
                await self._api.call("chat.update", said)
            except SlackRefused as error:
                if error.word not in _NOT_THERE:
                    raise

    async def close(self) -> None:
        """See `Channel`."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _message(self, record: ApprovalRecord, now: int) -> dict[str, Any]:
        made = blocks.message(card_of(record, now), self._page(record.rid))
        return {"channel": self.channel, "text": made.text, "blocks": made.blocks}

    async def act(self, payload: Mapping[str, Any]) -> Answer:
        """Take up what somebody did in Slack, which has been proved to come from Slack; what to answer."""
        user = _person(payload)
        if user is None:
            return None
        if payload.get("type") == "block_actions":
            self._pressed(payload, user)
            return None
        if payload.get("type") == "view_submission" and _get(payload, "view", "callback_id") == blocks.CALLBACK:
            return await self._submitted(payload, user)
        return None

    def _pressed(self, payload: Mapping[str, Any], user: Person) -> None:
        actions = payload.get("actions")
        first = actions[0] if isinstance(actions, list) and actions else None
        choice = _CHOICES.get(str(_get(first, "action_id")))
        rid, trigger = _get(first, "value"), payload.get("trigger_id")
        if choice is not None and isinstance(rid, str) and isinstance(trigger, str):
            self._later(self._ask(_Aim(rid[:64], choice), user, payload, trigger))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _told(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ChannelFailed as error:
            _log.warning("channel %s: %s", self.name, error)

    async def _ask(self, aim: _Aim, user: Person, payload: Mapping[str, Any], trigger: str) -> None:
        """Open the dialogue, or one that says why not. Slack takes it within three seconds of the press."""
        try:
            view = await self._dialogue(aim, user, payload)
        except Conflict as conflict:
            view = blocks.notice("Not possible", f"{str(conflict)[:1].upper()}{str(conflict)[1:]}.")
        except (StoreUnavailable, UnknownSchema):
            view = blocks.notice("Not possible", _AWAY)
        await self._api.call("views.open", {"trigger_id": trigger, "view": view}, patience=3.0)

    async def _dialogue(self, aim: _Aim, user: Person, payload: Mapping[str, Any]) -> dict[str, Any]:
        record = await self._checked(aim, user, payload)
        metadata = msgspec.json.encode(aim).decode()
        return blocks.dialogue(card_of(record, self._clock()), aim.choice, self._service.needs_reason(record), metadata)

    async def _checked(self, aim: _Aim, user: Person, payload: Mapping[str, Any]) -> ApprovalRecord:
        """The record, where this user may decide on it from here. Raises `Conflict` with words for them."""
        if not await self._is_of_ours(payload):
            raise Conflict("not_listed", "you belong to another workspace than this app")
        record = await self._service.find(aim.rid)
        if record is None:
            raise Conflict("stale", _GONE.rstrip("."))
        reason = refusal(record, user, self._service.workflows, aim.choice, self._clock())
        if reason:
            raise Conflict("not_listed", reason, record)
        if aim.choice is Choice.APPROVE and not blocks.fits(card_of(record, self._clock())):
            raise Conflict("cut", "not all of it can be shown here: open its page to approve it", record)
        return record

    async def _is_of_ours(self, payload: Mapping[str, Any]) -> bool:
        """Whether the user is of the workspace that our token is of: ids are unique within one alone."""
        if not self._home:
            self._home = str((await self._api.call("auth.test", {}, patience=2.0)).get("team_id", ""))
        return bool(self._home) and _get(payload, "user", "team_id") == self._home

    async def _submitted(self, payload: Mapping[str, Any], user: Person) -> Answer:
        try:
            aim = msgspec.json.decode(str(_get(payload, "view", "private_metadata")), type=_Aim)
        except msgspec.DecodeError:
            return None
        values = _get(payload, "view", "state", "values")
        said = blocks.chosen(values if isinstance(values, Mapping) else {})
        work = asyncio.ensure_future(self._decide(aim, user, payload, said))
        done, _ = await asyncio.wait((work,), timeout=_AT_ONCE)
        if done:
            return work.result()
        self._later(self._report(work, aim, user))
        return None

    async def _decide(self, aim: _Aim, user: Person, payload: Mapping[str, Any], said: tuple[str, str, str]) -> Answer:
        reason, duration, uses = said
        try:
            record = await self._checked(aim, user, payload)
            text = reason_of({"reason": reason}, required=self._service.needs_reason(record))
        except BadForm as error:
            return {"response_action": "errors", "errors": {blocks.REASON: str(error)}}
        except (Conflict, StoreUnavailable, UnknownSchema, ChannelFailed) as error:
            return _not_counted(error)
        try:
            vote = vote_of(record, user, aim.choice, {"duration": duration, "uses": uses}, text)
        except BadForm as error:
            wrong = blocks.USES if uses else blocks.DURATION
            return {"response_action": "errors", "errors": {wrong: str(error)}}
        try:
            await self._service.vote(record, vote)
        except (Conflict, StoreUnavailable, UnknownSchema) as error:
            return _not_counted(error)
        return None

    async def _report(self, work: "asyncio.Future[Answer]", aim: _Aim, user: Person) -> None:
        """Tell whoever decided, and only them, that it was not counted after all. Holds nothing of the request."""
        if await work is not None:
            text = f"Your decision on request {aim.rid} was not counted: press the button again."
            who = user.approver.removeprefix("slack:")
            await self._api.call("chat.postEphemeral", {"channel": self.channel, "user": who, "text": text})


_AS_IT_IS: Final = {"mrkdwn": False, "parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}


def _not_counted(error: Exception) -> Answer:
    text = f"{error}." if isinstance(error, Conflict) else _AWAY
    if isinstance(error, ChannelFailed):
        text = "Slack does not tell us who you are. Nothing was counted: try again in a moment."
    return {"response_action": "update", "view": blocks.notice("Not counted", text[:1].upper() + text[1:])}


def _person(payload: Mapping[str, Any]) -> Person | None:
    user = _get(payload, "user", "id")
    return Person(f"slack:{user}") if isinstance(user, str) and _USER.fullmatch(user) else None


def _get(tree: object, *keys: str) -> object:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
