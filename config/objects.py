"""Which of the documents of files are for us: lists of objects taken apart, objects of other kinds left out.

A folder of manifests may be checked as it stands: what belongs to others is named in a warning and not looked into.
"""

import re
from collections.abc import Iterable, Iterator

from openmcp.config.cursor import At, shortened
from openmcp.config.problems import Mark, Report, did_you_mean

GROUP = "openmcp.dev"
KINDS = ("MCPServer", "MCPPolicy", "ApprovalWorkflow")
_LISTS = ("List", *(f"{kind}List" for kind in KINDS))
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_NAMED = 5


def ours(documents: Iterable[At], report: Report, namespace: str | None = None) -> list[At]:
    """The documents to be read, in their order.

    With `namespace` objects of others are left out, as they are for a sidecar there; without, there may be no two.
    """
    kept: list[At] = []
    foreign: dict[str, list[At]] = {}
    for at in _apart(documents):
        if _is_foreign(at):
            foreign.setdefault(at.mark.file, []).append(at)
        elif namespace is None or _namespace(at) in ("", namespace):
            kept.append(at)
    for objects in foreign.values():
        _tell_skipped(objects)
    _names(kept)
    _one_namespace(kept)
    return kept


def _apart(documents: Iterable[At]) -> Iterator[At]:
    for at in documents:
        items = at.key("items")
        if _text(at, "kind") in _LISTS and items is not None:
            yield from items.items() or ()
        else:
            yield at


def _is_foreign(at: At) -> bool:
    """Whether an object is surely somebody else's: not one of ours whose kind or group was mistyped."""
    kind, version = _text(at, "kind"), _text(at, "apiVersion")
    if not kind or not version:
        return False
    group = version.rpartition("/")[0]
    if not group or group == GROUP:
        return not group and kind not in KINDS
    return did_you_mean(kind, KINDS) is None or did_you_mean(group, [GROUP]) is None


def _tell_skipped(objects: list[At]) -> None:
    names = [" ".join(filter(None, (_text(at, "kind"), _name(at)))) for at in objects]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    objects[0].report.warn(
        Mark(objects[0].mark.file, objects[0].mark.line),
        "",
        f"not looked at: {', '.join(shortened(name) for name in names[:_NAMED])}{more}",
        f"only {', '.join(KINDS)} and the sections of gateway.yaml are",
    )


def _names(objects: Iterable[At]) -> None:
    """What the API server asks of a name is less than a name of ours may be."""
    for at in objects:
        metadata = at.key("metadata") if _text(at, "kind") in KINDS else None
        name = metadata.key("name") if metadata is not None else None
        if name is not None and not _OBJECT_NAME.fullmatch(name.text()):
            hint = "lower case letters, digits, - and ., beginning and ending with a letter or digit (RFC 1123)"
            name.error(f'not the name of a Kubernetes object: "{shortened(name.text())}"', hint)


def _one_namespace(objects: Iterable[At]) -> None:
    first: At | None = None
    for at in objects:
        if not _namespace(at):
            continue
        if first is None:
            first = at
        elif _namespace(at) != _namespace(first):
            other, one = shortened(_namespace(at)), shortened(_namespace(first))
            (at.key("metadata") or at).error(
                f'an object of namespace "{other}" beside those of "{one}"',
                "a sidecar sees those of one: choose it with --namespace",
            )
            return


def _namespace(at: At) -> str:
    metadata = at.key("metadata") if _text(at, "kind") in KINDS else None
    return _text(metadata, "namespace") if metadata is not None else ""


def _name(at: At) -> str:
    metadata = at.key("metadata")
    return _text(metadata, "name") if metadata is not None else ""


def _text(at: At, key: str) -> str:
    found = at.key(key)
    return found.text() if found is not None else ""
