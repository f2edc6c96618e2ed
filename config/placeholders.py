"""What `openmcp init` leaves to be filled in."""

from typing import Final

from openmcp.config.cursor import At, shortened
from openmcp.config.yamlsource import Mapping, Scalar, Sequence

MARK: Final = "change-me"
"""Stands in templates where only the reader knows the value; a valid part of host names, trust domains and URLs."""


def tell_placeholders(at: At) -> None:
    """Warn of each text in the tree that is still the template's."""
    if isinstance(at.node, Scalar):
        if MARK in at.text():
            at.warn(f'to be filled in: "{shortened(at.text())}"', f'write your own for "{MARK}"')
    elif isinstance(at.node, Mapping):
        for _, below in at.entries():
            tell_placeholders(below)
    elif isinstance(at.node, Sequence):
        for item in at.items() or ():
            tell_placeholders(item)
