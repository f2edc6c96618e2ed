"""Whether somebody decides on a request: one rule for votes and revocations, and for the forms that offer them."""

from collections.abc import Collection, Mapping

from openmcp.sidecar.state.records import ApprovalRecord, Status


def unlisted(record: ApprovalRecord, names: Collection[str], workflows: Mapping[str, Collection[str]]) -> str:
    """Why somebody with these names does not decide; empty where they do.

    The request has to name them. Who is gone from the present list (`workflows`) of one of the needs that name them
    does not decide at all: their vote would count there. A workflow that is not there any more has no present list.
    """
    if not any(name in need.approvers for need in record.needs for name in names):
        return "not on the list of approvers"
    known = [need for need in record.needs if need.workflow in workflows]
    named = [need for need in known if any(name in need.approvers for name in names)]
    if known and not (named and all(any(one in workflows[need.workflow] for one in names) for need in named)):
        return "not on the list of approvers any more"
    return ""


def gone(record: ApprovalRecord, workflows: Mapping[str, Collection[str]]) -> str:
    """Why nobody approves a request any more; empty where that is not so.

    The vote of somebody who has left the list since then would count with the next one. It can still be denied, and
    its time runs out; then it is asked anew.
    """
    if record.status is Status.PENDING:
        for vote in record.votes:
            if unlisted(record, (vote.approver, *vote.groups), workflows):
                return (
                    f"{vote.approver} has approved this and is not on the list of approvers any more: deny it instead"
                )
    return ""
