"""MCP servers that are not reached over HTTP, behind the same pipeline: see docs/adapters.md."""
