"""Slack's Web API: one method, one form, one answer."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from openmcp.config.secrets import SecretError
from openmcp.identity.fetch import FetchFailed, Form, post_form
from openmcp.sidecar.approvals.channels.channel import ChannelFailed

_PATIENCE: Final = 10.0
_HINTS: Final = {
    "invalid_auth": "the token is not accepted",
    "not_authed": "the token is not accepted",
    "token_revoked": "the token is not accepted",
    "account_inactive": "the token is not accepted",
    "missing_scope": "the app lacks a scope",
    "channel_not_found": "there is no such channel, or the bot is not in it",
    "not_in_channel": "invite the bot into the channel",
    "is_archived": "the channel is archived",
}
"""What somebody has to change, by Slack's word for it."""


class SlackRefused(ChannelFailed):
    """Slack says no; `word` is its reason."""

    def __init__(self, method: str, word: str) -> None:
        hint = _HINTS.get(word)
        super().__init__(f"Slack refuses {method}: {word}{f' ({hint})' if hint else ''}", lasting=True)
        self.word = word


class SlackApi:
    """Calls with one token; `token` is asked for each time: it is re-read on change."""

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        self._url = url
        self._token = token

    async def call(self, method: str, arguments: Mapping[str, Any], patience: float = _PATIENCE) -> Mapping[str, Any]:
        """Call a method; texts go as they are, everything else as JSON. Raises `ChannelFailed`."""
        fields = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in arguments.items()
        }
        try:
            form = Form(fields, {"authorization": f"Bearer {self._token()}"})
            status, body = await post_form(f"{self._url}/{method}", form, patience=patience)
        except SecretError as error:
            raise ChannelFailed(f"Slack's token: {error}", lasting=True) from None
        except FetchFailed as error:
            raise ChannelFailed(f"Slack does not answer: {error.reason}") from None
        return _answer(method, status, body)


def _answer(method: str, status: int, body: bytes) -> Mapping[str, Any]:
    if status == 429:
        raise ChannelFailed("Slack asks for patience: too many messages")
    if status != 200:
        raise ChannelFailed(f"Slack answers {method} with HTTP {status}")
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise ChannelFailed(f"Slack's answer to {method} cannot be read") from None
    if found.get("ok") is True:
        return found
    word = str(found.get("error", "unknown"))[:60]
    if word in ("ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"):
        raise ChannelFailed(f"Slack cannot take it now: {word}")
    raise SlackRefused(method, word)
