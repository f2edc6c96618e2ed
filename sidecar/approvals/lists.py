"""Whether somebody decides on a request: one rule for votes and revocations, and for the forms that offer them."""

from collections.abc import Collection, Mapping

from openmcp.sidecar.state.records import ApprovalRecord


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
