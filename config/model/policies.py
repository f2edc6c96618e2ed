"""Policies: `policies`."""

from enum import StrEnum
from typing import Literal

import msgspec


class Action(StrEnum):
    """What a request rule does."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "requireApproval"


class ResponseAction(StrEnum):
    """What a response rule does with what it finds."""

    BLOCK = "block"
    REDACT = "redact"


class Operator(StrEnum):
    """How a condition compares what its path finds with its value."""

    EQ = "eq"
    NE = "ne"
    IN = "in"
    NOT_IN = "notIn"
    MATCHES = "matches"
    GLOB = "glob"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    EXISTS = "exists"
    ABSENT = "absent"
    CIDR = "cidr"
    LENGTH_AT_MOST = "lengthAtMost"


Value = str | int | float | bool | None
"""A value that conditions compare with; numbers, texts and booleans are never equal to each other."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition on a call's arguments: `path` is JSONPath (base grammar of jsonpath-ng) over them.

    `value` is one value, for `in`, `notIn` and `cidr` several; None for `exists` and `absent`.
    """

    path: str
    op: Operator
    value: Value | tuple[Value, ...] = None


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What a human is asked where a rule requires approval; durations in seconds.

    `show` and `bind` are JSONPath: what the approver sees in the clear, and the values the grant holds for (None: the
    whole arguments).
    """

    workflow: str
    show: tuple[str, ...] = ()
    bind: tuple[str, ...] | None = None
    duration: float = 1800.0
    max_duration: float | None = None
    max_uses: int | None = None


class RequestRule(msgspec.Struct, frozen=True, kw_only=True):
    """One request rule; without selectors it matches every request. Selectors are globs (`*`, `?`).

    All of `when` must hold. With `detect` (named detectors) or `patterns` (RE2, searched) the rule matches only a
    request in which one of them finds something.
    """

    name: str
    action: Action
    tools: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    when: tuple[Condition, ...] = ()
    detect: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    message: str | None = None
    approval: Approval | None = None


class Binary(msgspec.Struct, frozen=True, kw_only=True):
    """Binary content that a response rule is about: media types by glob, and more than `over` bytes (decoded)."""

    types: tuple[str, ...] = ("*",)
    over: int = 0


class ResponseRule(msgspec.Struct, frozen=True, kw_only=True):
    """One response rule: what is looked for (`detect`, `patterns`, `binary`), where, and what becomes of it.

    `except_` (RE2, searched in what was found) lists what is fine; `paths` (JSONPath over the result, the error or the
    params of a message) limits the places. The selectors limit the rule to what answers calls of these; without any
    it holds for everything that a server says.
    """

    name: str
    action: ResponseAction
    detect: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    binary: Binary | None = None
    except_: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


class AgentSelector(msgspec.Struct, frozen=True, kw_only=True):
    """Agents by the parts of their SPIFFE ID (`spiffe://<trust domain>/ns/<namespace>/sa/<service account>`) or by
    claims, each a glob; all that are given must match."""

    trust_domain: str | None = None
    namespace: str | None = None
    service_account: str | None = None
    claims: tuple[tuple[str, str], ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for some agents (all, where empty) on some servers, named by globs.

    A policy in mode `shadow` is decided and recorded, and has no effect.
    """

    name: str
    servers: tuple[str, ...]
    agents: tuple[str | AgentSelector, ...] = ()
    mode: Literal["enforce", "shadow"] = "enforce"
    requests: tuple[RequestRule, ...] = ()
    responses: tuple[ResponseRule, ...] = ()
