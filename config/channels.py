"""From the tree of a source to `approvals.channels` of the model: where approvers are told."""

import re
from typing import Final

import msgspec

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, boolean, choice, distinct, integer, list_of, some, string, tagged
from openmcp.config.cursor import shortened as cut
from openmcp.config.values import host_name, mail_address, name, no_clear_text, secret, url
from openmcp.identity.addresses import is_this_machine

_TYPE: Final = ("type",)
_SLACK_SECRETS: Final = {"http": ("signingSecret", "appToken"), "socket": ("appToken", "signingSecret")}
"""By mode: the secret that it needs, and the one of the other mode."""


def _slack_channel(at: At) -> str | None:
    value = string(at)
    if value is not None and not re.fullmatch("[CGD][A-Z0-9]{2,}", value):
        at.error(f'not the id of a Slack channel: "{cut(value)}"', "it is in the channel's details, such as C0123ABC")
        return None
    return value


def _api(at: At) -> str | None:
    value = no_clear_text(at, url("Slack's Web API")(at), "the token would be seen on the way")
    return None if value is None else value.rstrip("/")


def _slack(at: At) -> model.SlackChannel | None:
    value = _slack_shape(at)
    if value is None:
        return None
    wanted, other = _SLACK_SECRETS[value.mode]
    surplus = at.key(other)
    if at.key(wanted) is None:
        at.error(f"`{wanted}` is required with `mode: {value.mode}`", f"write {wanted}: {{env: NAME}}")
    elif surplus is not None:
        surplus.error(f"`{other}` has no meaning with `mode: {value.mode}`", "remove it")
    else:
        return value
    return None


_slack_shape: Reading[model.SlackChannel] = Shape(
    model.SlackChannel,
    {
        "name": name,
        "channel": _slack_channel,
        "token": secret,
        "mode": choice(tuple(_SLACK_SECRETS)),
        "signingSecret": secret,
        "appToken": secret,
        "apiUrl": _api,
    },
    required=("name", "channel", "token"),
    ignored=_TYPE,
)


def _smtp(at: At) -> model.Smtp | None:
    value = _smtp_shape(at)
    if value is None:
        return None
    user, password, ca = at.key("user"), at.key("password"), at.key("ca")
    away = not value.encrypted and not is_this_machine(value.host)
    if (user is None) != (password is None):
        (user or password or at).error("`user` and `password` go together", "write both, or none")
    elif user is not None and away:
        user.error("the password would be sent in the clear", "remove startTls: false")
    elif ca is not None and not value.encrypted:
        ca.error("`ca` has no meaning with `startTls: false`", "remove one of them")
    else:
        if away:
            hint = "remove startTls: false, where the mail server can do it"
            (at.key("startTls") or at).warn(f"what agents ask goes to {value.host} in the clear", hint)
        return value
    return None


_smtp_shape: Reading[model.Smtp] = Shape(
    model.Smtp,
    {
        "host": host_name,
        "port": integer(1, 65535),
        "startTls": boolean,
        "user": string,
        "password": secret,
        "ca": secret,
    },
    required=("host",),
)


def _addresses(at: At) -> tuple[str, ...] | None:
    values = some(list_of(mail_address), "nobody would be told: write who is")(at)
    if values is not None:
        distinct(((item, item.text().lower()) for item in at.items() or ()), "address")
    return values


def _email(**values: object) -> model.EmailChannel:
    named = {"sender" if key == "from" else key: value for key, value in values.items()}
    return msgspec.convert(named, model.EmailChannel)


_kinds: dict[str, Reading[model.Channel]] = {
    "slack": _slack,
    "email": Shape(
        _email,
        {"name": name, "to": _addresses, "from": mail_address, "smtp": _smtp},
        required=("name", "to", "from", "smtp"),
        ignored=_TYPE,
    ),
}
_list: Reading[tuple[model.Channel, ...]] = list_of(tagged(_kinds))


def channels(at: At) -> tuple[model.Channel, ...] | None:
    """The entries of `approvals.channels`, each with a name of its own."""
    values = _list(at)
    names = ((entry.key("name"), entry) for entry in (at.items() if values is not None else None) or ())
    distinct(((name, name.text()) for name, _ in names if name is not None), "channel name")
    return values
