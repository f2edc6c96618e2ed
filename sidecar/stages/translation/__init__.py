"""Agents of one era with servers of the other (`servers[].translate`); see docs/translation.md."""
