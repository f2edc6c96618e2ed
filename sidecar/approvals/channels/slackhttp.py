"""Where Slack calls us (`mode: http`): the interactivity endpoint, mounted by the console's server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from openmcp.config.secrets import SecretError
from openmcp.sidecar.approvals.channels.slack import Slack
from openmcp.sidecar.approvals.channels.slacksignature import NotSlack, check
from openmcp.sidecar.approvals.console.settings import Incoming, Outgoing

PATH: Final = "/slack/interactivity"
"""To be entered in the settings of the Slack app, behind the console's `url`."""

_MOST: Final = 256 * 1024


class SlackEndpoint:
    """Slack's requests for all channels in `mode: http`, each with what reads the signing secret of its app."""

    def __init__(
        self, channels: Sequence[tuple[Slack, Callable[[], str]]], clock: Callable[[], int], refused: Callable[[], None]
    ) -> None:
        """`refused` is called for each request that is not Slack's; `fault` says why none can be proved to be."""
        self._channels = channels
        self._clock = clock
        self._refused = refused
        self.fault = ""

    async def __call__(self, request: Incoming) -> Outgoing:
        """Take one request; nothing in it is read before its signature is known to be good."""
        if len(request.body) > _MOST:
            return Outgoing(413)
        signed = [slack for slack, secret in self._channels if self._is_signed(secret, request)]
        if not signed:
            self._refused()
            return Outgoing(401, b"not signed by Slack")
        payload = _payload(request.body)
        if payload is None:
            return Outgoing(400, b"not an interaction")
        answer = await _addressed(signed, payload).act(payload)
        if answer is None:
            return Outgoing(200)
        return Outgoing(200, msgspec.json.encode(answer), "application/json")

    def _is_signed(self, secret: Callable[[], str], request: Incoming) -> bool:
        try:
            check(secret().encode(), request.headers, request.body, self._clock())
        except NotSlack:
            return False
        except SecretError as error:
            self.fault = f"signingSecret: {error}"
            return False
        self.fault = ""
        return True


def _payload(body: bytes) -> Mapping[str, Any] | None:
    try:
        form = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=4)
        return msgspec.json.decode(form["payload"][0], type=dict[str, Any])
    except (ValueError, KeyError):  # msgspec's errors are ValueErrors
        return None


def _addressed(channels: Sequence[Slack], payload: Mapping[str, Any]) -> Slack:
    """The channel that the button is in; a dialogue is in none, and any channel of its app will do."""
    container = payload.get("container")
    where = container.get("channel_id") if isinstance(container, Mapping) else None
    return next((slack for slack in channels if slack.channel == where), channels[0])
