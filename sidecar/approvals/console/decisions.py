"""What a person may do to a request, and what they say in a form. Nothing here widens what the rule allows."""

from collections.abc import Collection, Mapping
from typing import Final

from openmcp.sidecar.approvals.card import card_of
from openmcp.sidecar.approvals.console.settings import Person
from openmcp.sidecar.approvals.lists import gone, unlisted
from openmcp.sidecar.state.lifecycle import Conflict, is_same_person, voted
from openmcp.sidecar.state.records import ApprovalRecord, Choice, Status, Vote

REASON: Final = 500
"""Characters of a reason."""


class BadForm(ValueError):
    """A form that cannot be taken; the text says why to who filled it in."""


def groups_of(record: ApprovalRecord, person: Person) -> tuple[str, ...]:
    """What else a person is on this request's lists as: nothing more of them is written down."""
    return tuple(name for name in person.groups if any(name in need.approvers for need in record.needs))


def refusal(
    record: ApprovalRecord, person: Person, workflows: Mapping[str, Collection[str]], choice: Choice, now: int
) -> str:
    """Why this person cannot decide on this request; empty where they can."""
    vote = Vote(approver=person.approver, choice=choice, at=now, groups=groups_of(record, person))
    if any(is_same_person(record.agent, name) for name in person.names if not name.startswith("oidc:group:")):
        return "nobody approves their own request"
    try:
        after = voted(record, record.rid, vote, now)
    except Conflict as conflict:
        return str(conflict)
    if after is record:
        return "you have approved this already" if choice is Choice.APPROVE else "you have denied this already"
    why = _unlisted(record, person, workflows)
    if why:
        return f"you are {why}"
    return gone(record, workflows) if choice is Choice.APPROVE else ""


def _unlisted(record: ApprovalRecord, person: Person, workflows: Mapping[str, Collection[str]]) -> str:
    """Why this person does not decide on this request; a mail is for the request that it was sent for."""
    if person.request not in ("", record.rid):
        return "here by the mail for another request: open the one for this"
    return unlisted(record, (person.approver, *groups_of(record, person)), workflows)


def check_mail(record: ApprovalRecord, person: Person) -> None:
    """Raises `Conflict` for who has come by the mail for another request."""
    if person.request not in ("", record.rid):
        raise Conflict("not_listed", f"you are {_unlisted(record, person, {})}", record)


def actions(record: ApprovalRecord, person: Person, workflows: Mapping[str, Collection[str]], now: int) -> list[str]:
    """The forms that a person gets to see."""
    if record.status is Status.APPROVED:
        return [] if _unlisted(record, person, workflows) else ["revoke"]
    if record.status is not Status.PENDING:
        return []
    return [choice.value for choice in Choice if not refusal(record, person, workflows, choice, now)]


def reason_of(form: Mapping[str, str], *, required: bool) -> str:
    """What the form gives as the reason. Raises `BadForm`."""
    reason = " ".join(form.get("reason", "").split())
    if required and not reason:
        raise BadForm("A reason is required here.")
    if len(reason) > REASON:
        raise BadForm(f"The reason is longer than {REASON} characters.")
    return reason


def vote_of(record: ApprovalRecord, person: Person, choice: Choice, form: Mapping[str, str], reason: str) -> Vote:
    """The vote that a form says. Raises `BadForm` for what is not among the choices."""
    approving = choice is Choice.APPROVE
    return Vote(
        approver=person.approver,
        choice=choice,
        at=0,
        groups=groups_of(record, person),
        reason=reason,
        duration=_duration(record, form.get("duration", "")) if approving else None,
        uses=_uses(record, form.get("uses", "").strip()) if approving else None,
    )


def _duration(record: ApprovalRecord, said: str) -> int | None:
    choices = {str(choice.milliseconds): choice.milliseconds for choice in card_of(record, 0).durations}
    if said and said not in choices:
        raise BadForm("This duration is not, or no longer, among the choices.")
    return choices.get(said)


def _uses(record: ApprovalRecord, said: str) -> int | None:
    if not said:
        return None
    most = card_of(record, 0).most_uses
    if not (said.isascii() and said.isdigit() and len(said) <= 9) or int(said) < 1 or int(said) > (most or int(said)):
        limit = f"from 1 to {most}" if most else "of 1 or more"
        raise BadForm(f"The number of uses must be a whole number {limit}.")
    return int(said)
