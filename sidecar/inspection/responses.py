"""One response rule, compiled."""

import re
from typing import Any, Final

from openmcp.config.jsonpath import Location, compile_locator
from openmcp.config.model import Policy, ResponseAction, ResponseRule
from openmcp.sidecar.detection.finder import Finder
from openmcp.sidecar.policy.globs import GlobSet
from openmcp.sidecar.types import METHOD, PROMPT, RESOURCE, TOOL, Subject

_NO_ANCHOR: Final = re.compile(r"\\[^Az]|\[\^")


class CompiledResponseRule:
    """What a rule looks for, where, in answers to what, and what becomes of it."""

    __slots__ = (
        *("_any", "_locators", "_selectors", "anchored", "binary_over", "binary_types", "blocks", "finder"),
        *("name", "policy", "shadow"),
    )

    def __init__(self, policy: Policy, rule: ResponseRule) -> None:
        self.policy = policy.name
        self.name = rule.name
        self.shadow: bool = policy.mode == "shadow"
        self.blocks: bool = rule.action is ResponseAction.BLOCK
        looks = bool(rule.detect or rule.patterns)
        self.finder = Finder(rule.detect, rule.patterns, rule.except_, rule.name) if looks else None
        self.anchored = any(is_anchored(pattern) for pattern in rule.patterns)
        self.binary_types = GlobSet(rule.binary.types) if rule.binary is not None else None
        self.binary_over = rule.binary.over if rule.binary is not None else 0
        self._locators = tuple(compile_locator(path) for path in rule.paths)
        self._any = not (rule.tools or rule.prompts or rule.resources or rule.methods)
        self._selectors = {
            TOOL: GlobSet(rule.tools),
            PROMPT: GlobSet(rule.prompts),
            RESOURCE: GlobSet(rule.resources),
            METHOD: GlobSet(rule.methods),
        }

    def applies(self, subjects: tuple[Subject, ...]) -> bool:
        """Whether it holds for what answers a call of these."""
        return self._any or any(self._selectors[subject.kind].matches(subject.name) for subject in subjects)

    def places(self, document: Any) -> frozenset[Location] | None:
        """The places in a message that it is limited to, with all below them; None: everywhere."""
        if not self._locators:
            return None
        return frozenset(location for locate in self._locators for location in locate(document))

    def minds(self, types: tuple[str, ...], size: int) -> bool:
        """Whether it is about binary content of (one of) these media types and this many bytes."""
        globs = self.binary_types
        return globs is not None and size > self.binary_over and any(map(globs.matches, types))


def is_anchored(pattern: str) -> bool:
    """Whether a pattern may ask where a text begins or ends; then texts cannot be searched together."""
    plain = _NO_ANCHOR.sub("", pattern)
    return "^" in plain or "$" in plain or "\\A" in plain or "\\z" in plain
