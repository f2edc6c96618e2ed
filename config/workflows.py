"""From the tree of a source to the approval workflows of the model: who may approve what rules gate."""

import re

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, boolean, distinct, integer, list_of, shortened, some, string
from openmcp.config.problems import did_you_mean
from openmcp.config.values import MAIL_ADDRESS, duration, name

_FORMS = {
    "oidc:group:": (r"\S(?:.*\S)?", "the name of a group in the claim of the identity provider"),
    "oidc:user:": (r"\S(?:.*\S)?", "a user as the identity provider names it"),
    "slack:": (r"[UW][A-Z0-9]{2,}", "a member's id, such as slack:U0123ABC"),
    "email:": (MAIL_ADDRESS.pattern, "an address, such as email:lead@acme.example"),
    "token:": (r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a token, such as token:oncall"),
}
"""How approvers are named: the beginning says who vouches for them, the rest is held against the expression."""


def _approver(at: At) -> str | None:
    value = string(at)
    if value is None:
        return None
    form = next((form for form in _FORMS if value.startswith(form)), None)
    if form is None:
        kind = value[: value.rfind(":") + 1]
        near = did_you_mean(kind, _FORMS) if kind else None
        at.error(f'not an approver: "{shortened(value)}"', near or f"begin with one of {', '.join(_FORMS)}")
        return None
    expression, meant = _FORMS[form]
    if not re.fullmatch(expression, value.removeprefix(form)):
        at.error(f'not an approver: "{shortened(value)}"', f"{form} is followed by {meant}")
        return None
    return value


def _approvers(at: At) -> tuple[str, ...] | None:
    values = some(list_of(_approver), "nobody could approve: write who may, such as oidc:group:NAME")(at)
    if values is not None:
        distinct(((item, item.text()) for item in at.items() or ()), "approver")
    return values


def _channels(at: At) -> tuple[str, ...] | None:
    values = list_of(name)(at)
    if values is not None:
        distinct(((item, item.text()) for item in at.items() or ()), "channel")
    return values


_shape: Reading[model.Workflow] = Shape(
    model.Workflow,
    {
        "name": name,
        "approvers": _approvers,
        "required": integer(1, 100),
        "pendingFor": duration,
        "channels": _channels,
        "requireReason": boolean,
    },
    required=("name", "approvers"),
)


def workflow(at: At) -> model.Workflow | None:
    """One entry of `approvals.workflows`, the spec of an ApprovalWorkflow."""
    value = _shape(at)
    if value is None or any(approver.startswith("oidc:group:") for approver in value.approvers):
        return value
    if value.required > len(value.approvers):
        given = at.key("required") or at
        given.error(f"{value.required} approvals are required and {len(value.approvers)} can be given", "name more")
        return None
    return value
