"""Whether requests for approval reach somebody who can decide on them.

Where nothing of the approver's side is written, and the state is shared, that side is elsewhere: nothing is said of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from openmcp.config.addresses import shown
from openmcp.config.cursor import At
from openmcp.config.model import Action, Approvals, Configuration, EmailChannel, SlackChannel, Workflow
from openmcp.config.problems import did_you_mean
from openmcp.identity.addresses import is_this_machine


def check_approvals(
    made: Configuration,
    sections: Mapping[str, At],
    workflows: Mapping[str, At],
    policies: Mapping[str, At],
    *,
    alone: bool,
) -> None:
    """Report errors and warnings; the mappings give the places of sections, workflows and policies by name.

    `alone`: there are objects and nothing else, so who decides where is said elsewhere."""
    section = sections.get("approvals")
    approvals = made.approvals
    for workflow in approvals.workflows if section is not None else ():
        _channels_exist(approvals, workflows[workflow.name])
    if section is not None:
        _listener(made, section)
        _channels(approvals, section)
        _logins(approvals, section)
    here = any((approvals.console, approvals.oidc, approvals.tokens, approvals.channels))
    shared = _is_shared(sections.get("state"))
    if here:
        _approvers(approvals, workflows, shared)
    if here or not (shared or alone):
        _undecided(made, policies, shared, here)


def _is_shared(state: At | None) -> bool:
    """Whether other processes see the requests: `openmcp approvals`, or a console elsewhere."""
    kind = state.key("type") if state is not None else None
    return kind is not None and kind.text() != "memory"


def _channels_exist(approvals: Approvals, at: At) -> None:
    known = [channel.name for channel in approvals.channels]
    for item in _entries(at, "channels"):
        if item.text() not in known:
            listed = f"approvals.channels: {_names(known)}"
            item.error(f'no channel is named "{item.text()}"', did_you_mean(item.text(), known) or listed)


def _listener(made: Configuration, section: At) -> None:
    console, at = made.approvals.console, section.key("console")
    if console is None or at is None or console.listen.port == 0:
        return
    for key, address in (("mcp", made.listen.mcp), ("admin", made.listen.admin)):
        if console.listen == address:
            at.error(f"the console has the same address {shown(address)} as `listen.{key}`")


def _channels(approvals: Approvals, section: At) -> None:
    """What a channel needs of the console, and of somebody who uses it."""
    used = {name for workflow in approvals.workflows for name in workflow.channels}
    for channel, at in zip(approvals.channels, _entries(section, "channels"), strict=True):
        if channel.name not in used:
            at.warn(f'nobody is told by "{channel.name}"', f"write channels: [{channel.name}] in a workflow")
        if isinstance(channel, EmailChannel) and approvals.console is None:
            at.error("a mail holds a link to the console, and there is none", "write approvals.console")
        elif isinstance(channel, SlackChannel) and channel.mode == "http":
            _slack_reaches(approvals, at)


def _slack_reaches(approvals: Approvals, at: At) -> None:
    if approvals.console is None:
        at.error(
            "in `mode: http` Slack calls the console, and there is none", "write approvals.console, or mode: socket"
        )
    elif approvals.console.url is None or is_this_machine(urlsplit(approvals.console.url).hostname or ""):
        at.warn("in `mode: http` Slack calls the console, which is on this machine alone", "write mode: socket")


def _logins(approvals: Approvals, section: At) -> None:
    for key in ("oidc", "tokens") if approvals.console is None else ():
        at = section.key(key)
        if at is not None and (key == "oidc" or approvals.tokens):
            at.warn("there is no page to log in to", "write approvals.console")


def _approvers(approvals: Approvals, workflows: Mapping[str, At], shared: bool) -> None:
    for workflow in approvals.workflows:
        for item in _entries(workflows[workflow.name], "approvers"):
            lack = _lack(approvals, workflow, item.text(), shared)
            if lack is not None:
                item.warn(f"{item.text()} cannot decide: {lack}")


def _lack(approvals: Approvals, workflow: Workflow, approver: str, shared: bool) -> str | None:
    """What keeps an approver from deciding; None where nothing does."""
    kind, _, name = approver.partition(":")
    told = [channel for channel in approvals.channels if channel.name in workflow.channels]
    if kind == "slack":
        return None if any(isinstance(one, SlackChannel) for one in told) else "no channel of type slack asks them"
    if kind == "email" and approvals.oidc is None:  # by the link and the code of a mail, which links to the console
        return None if any(isinstance(one, EmailChannel) for one in told) else "no channel of type email asks them"
    if kind == "token":
        if shared and not approvals.tokens:  # `openmcp approvals --as` asks for no token
            return None
        if name not in (token.name for token in approvals.tokens):
            return f'no entry of approvals.tokens is named "{name}"'
    elif approvals.oidc is None:
        return "`approvals.oidc` is missing"
    return None if approvals.console is not None or (kind == "token" and shared) else "`approvals.console` is missing"


def _undecided(made: Configuration, policies: Mapping[str, At], shared: bool, here: bool) -> None:
    """Rules whose workflow has too few who can decide: what they gate is never let through."""
    workflows = {workflow.name: workflow for workflow in made.approvals.workflows}
    for rule_name, workflow_name, at in _gates(made, policies):
        workflow = workflows.get(workflow_name)
        if workflow is None or _is_decidable(made.approvals, workflow, shared):
            continue
        text = f'calls under "{rule_name}" are never let through: '
        if here:
            able = sum(1 for one in workflow.approvers if _lack(made.approvals, workflow, one, shared) is None)
            at.error(f'{text}of the approvers of "{workflow_name}" {able} can decide and {workflow.required} must')
        else:
            at.warn(f"{text}nobody can decide", "write approvals.console: {} and approvals.tokens")


def _is_decidable(approvals: Approvals, workflow: Workflow, shared: bool) -> bool:
    able = [one for one in workflow.approvers if _lack(approvals, workflow, one, shared) is None]
    return len(able) >= workflow.required or any(one.startswith("oidc:group:") for one in able)


def _gates(made: Configuration, policies: Mapping[str, At]) -> Iterator[tuple[str, str, At]]:
    """The rules in force that require an approval: name, workflow, place."""
    for policy in made.policies:
        if policy.mode != "enforce":
            continue
        for rule, at in zip(policy.requests, _entries(policies[policy.name], "requests"), strict=True):
            if rule.action is Action.REQUIRE_APPROVAL and rule.approval is not None:
                yield rule.name, rule.approval.workflow, at


def _entries(at: At, key: str) -> list[At]:
    found = at.key(key)
    return (found.items() if found is not None else None) or []


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return f"there are: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}" if listed else "there are none"
