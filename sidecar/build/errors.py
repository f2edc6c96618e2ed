"""What can be wrong with a configuration only where it is used."""


class BuildError(Exception):
    """A configuration that is well written and cannot be used here: a file it names cannot be read."""
