"""What is wrong with a configuration, said so that it can be put right: file, line, path, message, hint."""

from collections.abc import Iterable

import msgspec


class Mark(msgspec.Struct, frozen=True):
    """A place in a source: the file as it was named, the line counted from 1 (None: the file as a whole)."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One error or warning. `path` is written as `servers[0].auth.type`, empty for a document as a whole."""

    file: str
    line: int | None
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        where = str(Mark(self.file, self.line))
        path = f" {self.path}:" if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}:{path} {self.message}{hint}"


class ConfigurationError(Exception):
    """A configuration that cannot be used: every problem found, in the order of the source."""

    def __init__(self, problems: Iterable[Problem], warnings: Iterable[Problem] = ()) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(map(str, self.problems)))


class Report:
    """Collects problems while a source is parsed, so that all are told at once."""

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def error(self, mark: Mark, path: str, message: str, hint: str | None = None) -> None:
        """Add an error: the configuration will not be used."""
        self.errors.append(Problem(file=mark.file, line=mark.line, path=path, message=message, hint=hint))

    def warn(self, mark: Mark, path: str, message: str, hint: str | None = None) -> None:
        """Add a warning: the configuration works, but probably not as it was meant."""
        self.warnings.append(Problem(file=mark.file, line=mark.line, path=path, message=message, hint=hint))


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The hint `did you mean "x"?` where a known word is close to `word`, else None."""
    import difflib  # only when something is wrong: it is large

    by_folded = {name.lower(): name for name in known}
    folded = word.lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return f'did you mean "{by_folded[close[0]]}"?' if close else None


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Problems sorted by file and line; those of one line stay in the order they were found."""
    return sorted(problems, key=lambda problem: (problem.file, problem.line or 0))
