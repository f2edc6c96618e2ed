"""How the demo looks: in a terminal with colours, elsewhere as plain text; 80 columns are enough."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from openmcp.sidecar.demo.record import Row

WIDEST: Final = 100
"""Columns; longer lines are harder to read."""
COLUMNS: Final = {"time": 5, "agent": 11, "era": 6, "message": 25, "decided": 7, "by rule": 14, "ms": 6}
"""Widths; with a space between them they fill 80 columns."""
SHORT: Final = {"requireApproval": "pending", "approved": "granted"}
"""Decisions whose own word is too long for a column."""
STYLES: Final = {"allow": "green", "deny": "red"}


class _Console(Console):
    """Falls silent where nobody reads any more (`openmcp demo | head`): the demo still ends as it should."""

    def on_broken_pipe(self) -> None:
        """See rich; its own would end the process at once."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Screen:
    """Prints the parts of the story; what came from outside is printed as text, never as markup."""

    def __init__(self, console: Console | None = None) -> None:
        made = console or _Console(highlight=False)
        made.width = min(made.width, WIDEST)
        self._console = made
        ascii_only = made.options.ascii_only
        self._good, self._bad = ("ok", "NOT") if ascii_only else ("✓", "✗")
        self._line = "-" if ascii_only else "─"
        self._act = 0

    @property
    def gone(self) -> bool:
        """Whether there is nobody left to show anything to."""
        return self._console.quiet

    def title(self, text: str) -> None:
        """The head of it all."""
        self._console.print(Text(text, style="bold"))

    def act(self, text: str) -> None:
        """The next numbered part."""
        self._act += 1
        self._console.print()
        title = Text(f"{self._act}. {text}", style="bold cyan")
        self._console.print(Rule(title, align="left", style="dim", characters=self._line))

    def say(self, text: str, style: str = "") -> None:
        """A paragraph."""
        self._console.print(Text(text, style=style))

    def quote(self, text: str, style: str = "yellow") -> None:
        """What somebody sent or printed, indented."""
        for line in Text(printable(text), style=style).wrap(self._console, self._console.width - 4):
            self._console.print(Text("    ") + line)

    def checked(self, told: str, *, good: bool) -> None:
        """Whether something came out as told."""
        mark, style = (self._good, "bold green") if good else (self._bad, "bold red")
        self._console.print(Text.assemble((mark, style), " ", printable(told)))

    def yaml(self, text: str) -> None:
        """A file."""
        code = Syntax("", "yaml", theme="ansi_dark", background_color="default")
        for line in code.highlight(text.rstrip()).split():
            self._console.print(Text("  ") + line if line else line, soft_wrap=True)

    def copy(self, text: str) -> None:
        """Lines to copy: nothing is added to them, and they are not wrapped."""
        self._console.print(Text(text, style="green"), soft_wrap=True)

    def compare(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A small table."""
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
        for head in heads:
            table.add_column(head)
        for row in rows:
            table.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def record(self, rows: Sequence[Row], began: float, *, head: bool = True) -> None:
        """The record as a timeline; times are seconds since `began`."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_header=head)
        for name, width in COLUMNS.items():
            right = name in ("time", "ms")
            table.add_column(name, width=width, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*_cells(row, began))
            if row.notifications:
                table.add_row("", "", "", Text(f"  {_counted(row.notifications)}", style="dim"))
        self._console.print(table)

    def blank(self) -> None:
        """An empty line."""
        self._console.print()


def printable(text: str) -> str:
    """Without what a terminal would act on: agents choose the names that the record shows."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text)


def _cells(row: Row, began: float) -> list[Text]:
    spent = f"{row.total_ms:.1f}" if row.total_ms is not None else ""
    word = SHORT.get(row.decision, row.decision)
    decided = Text(printable(word), style=STYLES.get(row.decision, "yellow"))
    texts = [Text(printable(cell)) for cell in (row.agent, row.era, row.what)]
    since = row.began - began
    time = Text(f"{since:.2f}" if since < 100 else f"{since:.0f}", style="dim")
    return [time, *texts, decided, Text(printable(row.rule)), Text(spent)]


def _counted(names: Sequence[str]) -> str:
    kinds = dict.fromkeys(names)
    return ", ".join(f"{names.count(kind)} {kind.removeprefix('notifications/')} messages" for kind in kinds)
