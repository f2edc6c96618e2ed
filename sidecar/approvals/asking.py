"""From a call and the rules that want it approved to the request that people see."""

from collections.abc import Iterable, Sequence
from typing import Final

from openmcp.config.jsonpath import Lookalike, compile_path
from openmcp.config.model import Approvals
from openmcp.identity.principal import Principal
from openmcp.sidecar.approvals.fingerprint import Ambiguous, Bound, canonical, digest, fingerprint, values_at
from openmcp.sidecar.approvals.values import Limits, Question, Spec
from openmcp.sidecar.errors import INVALID_PARAMS, Refused
from openmcp.sidecar.mcp.methods import INPUT_REQUIRED
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.asked import arguments_of
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.state.records import ANSWERS, WHOLE, ApprovalRecord, Need

_NOTHING: Final = "[]"
_READ: Final = frozenset(("arguments", ANSWERS))
_IS_READ: Final = frozenset(name.casefold() for name in _READ)


def question_of(caller: Principal, server: str, call: Call, reason: str = "") -> Question:
    """What a call asks for; `reason` is why the agent says it wants that.

    A client that comes back asks the same, unless it brings answers. Raises `Refused` where a server may read what
    nobody would be shown.
    """
    params = call.message.params
    if any(key not in _READ and key.casefold() in _IS_READ for key in params):
        raise Refused(400, INVALID_PARAMS, "a key of params differs in letter case from what it is", reason="malformed")
    answers = None
    if call.method in INPUT_REQUIRED:
        answers = params.get(ANSWERS)
        params = {key: value for key, value in params.items() if key not in ("requestState", ANSWERS)}
    return Question(
        agent=caller.name,
        identified_by=caller.method,
        server=server,
        method=call.method,
        name=call.name,
        arguments=arguments_of(call.method, params),
        answers=None if answers == {} else answers,
        reason=reason,
    )


def specs_of(decision: Decision, policies: PolicySet, approvals: Approvals) -> list[Spec]:
    """The rules that want a call approved, with what each asks of whom."""
    workflows = {workflow.name: workflow for workflow in approvals.workflows}
    specs = []
    for rule in decision.approvals:
        asked = policies.approval_of(rule)
        assert asked is not None, "a rule that requires an approval says of whom"
        specs.append(Spec(rule, asked, workflows[asked.workflow], policies.message_of(rule)))
    return specs


def new_request(
    key: bytes, question: Question, specs: Sequence[Spec], limits: Limits, now: int
) -> ApprovalRecord | None:
    """The request, still without an id; None where what approvers must see is too large. Raises `Ambiguous`.

    Several rules are one request: it holds for the values that any of them binds, as long and as often as the
    strictest of them allows, and each has its own approvers. Where a path that is to bind finds nothing the whole
    arguments are bound: a server may take what else is there for what the path was to find. Answers to a server's
    questions (`inputResponses`) are bound with the whole arguments, and then always shown.
    """
    arguments = question.arguments
    bound = _bound(specs, arguments)
    binds: tuple[str, ...] = ()
    if bound is not None and any(values == _NOTHING for _, values in bound):
        binds, bound = tuple(path for path, values in bound if values != _NOTHING), None
    whole = [digest(arguments)]
    rules = [(one.rule.policy, one.rule.rule, one.workflow.name, str(one.workflow.required)) for one in specs]
    shown = _shown(specs, binds, arguments)
    if bound is None and question.answers is not None:
        whole.append(digest(question.answers))
        shown = (*shown, (ANSWERS, canonical(question.answers)))
    if sum(len(path) + len(text) for path, text in (*shown, *(bound or ()))) > limits.value_bytes:
        return None
    return ApprovalRecord(
        key=fingerprint(key, rules, (question.agent, question.server), (question.method, question.name), bound, whole),
        rid="",
        agent=question.agent,
        identified_by=question.identified_by,
        server=question.server,
        method=question.method,
        name=question.name,
        needs=tuple(_need(spec) for spec in specs),
        why=tuple(dict.fromkeys(spec.why for spec in specs if spec.why)),
        shown=shown,
        bound=bound,
        arguments_digest=whole[0],
        agent_reason=question.reason[: limits.reason_characters],
        opened=now,
        pending_until=now + min(_milliseconds(spec.workflow.pending_for) for spec in specs),
        last_asked=now,
        duration=min(_milliseconds(spec.approval.duration) for spec in specs),
        max_duration=min(_longest(spec) for spec in specs),
        max_uses=min(_given(spec.approval.max_uses for spec in specs), default=None),
        cooldown=limits.cooldown,
    )


def _bound(specs: Sequence[Spec], arguments: object) -> Bound | None:
    """What any of the rules binds; the whole arguments (None) where one of them binds those."""
    paths: list[str] = []
    for spec in specs:
        if spec.approval.bind is None:
            return None
        paths += spec.approval.bind
    return values_at(paths, arguments)


def _shown(specs: Sequence[Spec], binds: Iterable[str], arguments: object) -> Bound:
    """In the order of the paths; all arguments where a rule names none, since nobody can decide on a digest.

    Raises `Ambiguous` where a server may read another value than would be shown.
    """
    if not all(spec.approval.show for spec in specs):
        return ((WHOLE, canonical(arguments)),)
    paths = (*(path for spec in specs for path in spec.approval.show), *binds)
    try:
        found = [(path, compile_path(path, exact=True)(arguments)) for path in dict.fromkeys(paths)]
    except Lookalike as error:
        raise Ambiguous(str(error)) from None
    return tuple(
        (path, canonical(values[0] if len(values) == 1 else values) if values else "") for path, values in found
    )


def _need(spec: Spec) -> Need:
    return Need(
        policy=spec.rule.policy,
        rule=spec.rule.rule,
        workflow=spec.workflow.name,
        approvers=spec.workflow.approvers,
        required=spec.workflow.required,
    )


def _longest(spec: Spec) -> int:
    most = spec.approval.max_duration
    return _milliseconds(spec.approval.duration if most is None else most)


def _given(values: Iterable[int | None]) -> list[int]:
    return [value for value in values if value is not None]


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
