"""What makes two calls the same question: who asks whom for what, under which rules, with which values.

A grant is found by this alone, so two different questions must never have one fingerprint. It is keyed, since values
such as ticket numbers could be guessed from a plain digest.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from typing import Final

from openmcp.config.jsonpath import Lookalike, compile_path

Bound = tuple[tuple[str, str], ...]
"""Paths and what they find, as the canonical JSON of a list."""

_VERSION: Final = 1
"""Of what goes into a fingerprint: another one is another question."""


class Ambiguous(ValueError):
    """A value that cannot be bound: it can be read in more than one way."""


def canonical(value: object) -> str:
    """A JSON value in the one form it has: members sorted, no blanks, ASCII, every number with all its digits.

    Like RFC 8785, except that integers are not rounded to doubles, and `1` and `1.0` are different: a server may tell
    them apart. Raises `Ambiguous` for what is not JSON, such as NaN.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise Ambiguous(f"the arguments have no canonical form: {error}") from None


def digest(arguments: object) -> str:
    """SHA-256 of the canonical arguments, in hex."""
    return hashlib.sha256(canonical(arguments).encode()).hexdigest()


def values_at(paths: Iterable[str], arguments: object) -> Bound:
    """What JSONPaths find in the arguments, sorted by path; a path that finds nothing has the value `[]`.

    Raises `Ambiguous` where an object has a key that another reader may take for one of a path's.
    """
    try:
        return tuple((path, canonical(compile_path(path, exact=True)(arguments))) for path in sorted(set(paths)))
    except Lookalike as error:
        raise Ambiguous(str(error)) from None


def fingerprint(
    key: bytes,
    rules: Iterable[tuple[str, ...]],
    caller: tuple[str, str],
    subject: tuple[str, str],
    bound: Bound | None,
    whole: Sequence[str],
) -> str:
    """HMAC-SHA256, in hex, of: rules as (policy, rule, workflow, required), (agent, server), (method, name), and the
    bound values.

    Where nothing is bound by path (None) the whole arguments are, and answers that come with them: by the digests in
    `whole`.
    """
    agent, server = caller
    method, name = subject
    values: Sequence[object] = ["paths", bound] if bound is not None else ["all", *whole]
    said = canonical([_VERSION, sorted(set(rules)), agent, server, method, name, *values])
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()
