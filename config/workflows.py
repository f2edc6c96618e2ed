"""From the tree of a source to the approval workflows of the model: who may approve what rules gate."""

import re

from openmcp.config import model
from openmcp.config.cursor import At, Reading, Shape, boolean, integer, list_of, shortened, some, string, unique
from openmcp.config.problems import did_you_mean
from openmcp.config.values import MAIL_ADDRESS, duration, name

FORMS = {
    "oidc:group:": (r"\S(?:.*\S)?", "the name of a group in the claim of the identity provider"),
    "oidc:user:": (r"\S(?:.*\S)?", "a user as the identity provider names it"),
    "slack:": (r"[UW][A-Z0-9]{2,}", "a member's id, such as slack:U0123ABC"),
    "email:": (MAIL_ADDRESS.pattern, "an address, such as email:lead@acme.example"),
    "token:": (r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a token, such as token:oncall"),
}
"""How approvers are named: the beginning says who vouches for them, the rest is held against the expression."""


def approver(at: At) -> str | None:
    value = string(at)
    if value is None:
        return None
    form = next((form for form in FORMS if value.startswith(form)), None)
    if form is None:
        kind = value[: value.rfind(":") + 1]
        near = did_you_mean(kind, FORMS) if kind else None
        at.error(f'not an approver: "{shortened(value)}"', near or f"begin with one of {', '.join(FORMS)}")
        return None
    expression, meant = FORMS[form]
    if not re.fullmatch(expression, value.removeprefix(form)):
        at.error(f'not an approver: "{shortened(value)}"', f"{form} is followed by {meant}")
        return None
    return value


_approvers: Reading[tuple[str, ...]] = unique(
    some(list_of(approver, most=100), "nobody could approve: write who may, such as oidc:group:NAME"), "approver"
)

workflow_shape: Reading[model.Workflow] = Shape(
    model.Workflow,
    {
        "name": name,
        "approvers": _approvers,
        "required": integer(1, 100),
        "pendingFor": duration,
        "channels": unique(list_of(name, most=100), "channel"),
        "requireReason": boolean,
    },
    required=("name", "approvers"),
)


def workflow(at: At) -> model.Workflow | None:
    """One entry of `approvals.workflows`, the spec of an ApprovalWorkflow."""
    value = workflow_shape(at)
    if value is None or any(approver.startswith("oidc:group:") for approver in value.approvers):
        return value
    if value.required > len(value.approvers):
        given = at.key("required") or at
        given.error(f"{value.required} approvals are required and {len(value.approvers)} can be given", "name more")
        return None
    return value
