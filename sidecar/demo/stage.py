"""The stage: starts the processes, plays the story, stays up, and takes everything down again."""

import asyncio
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from openmcp.sidecar.demo.children import Child, Failed, answers, child, listening
from openmcp.sidecar.demo.human import Human
from openmcp.sidecar.demo.record import Record
from openmcp.sidecar.demo.screen import Screen
from openmcp.sidecar.demo.setting import Setting, prepare, shown
from openmcp.sidecar.demo.story import Story
from openmcp.sidecar.demo.tryout import invitations

SURPRISED: Final = 1
FAILED: Final = 3
LOOK_SECONDS: Final = 0.2
"""How often the record is looked at for what the user does."""


def perform(*, wait: bool, auto: bool, port: int | None) -> int:
    """See `openmcp.sidecar.demo.run`."""
    with asyncio.Runner() as runner:
        return runner.run(_Performance(wait=wait, auto=auto, port=port).give())


async def _play(story: Story, children: list[Child]) -> None:
    """The story; raises Failed where it cannot go on, or a process has ended, which then explains all the rest."""
    try:
        await story.play()
    except Exception as error:  # whatever the SDK raises where it cannot connect
        for each in children:
            each.check()
        raise Failed(f"the story broke off: {type(error).__name__}: {error}") from error
    for each in children:
        each.check()


class _Performance:
    """One run of the command."""

    def __init__(self, *, wait: bool, auto: bool, port: int | None) -> None:
        self._wait = wait
        self._auto = auto
        self._port = port
        self._screen = Screen()
        self._waiting = False
        self._interrupted = False

    async def give(self) -> int:
        """Everything; the exit code. Also where a signal ends it, nothing is left behind."""
        task = asyncio.create_task(self._whole())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, task)
        try:
            return await task
        except asyncio.CancelledError:
            self._screen.say("\nEnded; the sidecar, the server and the folder are gone.", style="dim")
            return 0 if self._waiting else FAILED
        except (Failed, OSError) as error:
            print(f"openmcp demo: {error}", file=sys.stderr)
            return FAILED

    def _interrupt(self, task: asyncio.Task[int]) -> None:
        if not self._interrupted:  # once: a second Ctrl-C must not keep the processes from being ended
            self._interrupted = True
            task.cancel()

    async def _whole(self) -> int:
        with tempfile.TemporaryDirectory(prefix="openmcp-demo-") as folder:
            setting = prepare(Path(folder), self._port)
            async with AsyncExitStack() as stack:
                children = await self._start(setting, stack)
                record = Record(setting.record)
                story = Story(self._screen, setting, record, Human(self._screen, setting, auto=self._auto))
                await _play(story, children)
                self._conclude(story.surprises)
                if self._wait:
                    self._waiting = True
                    await self._stay(setting, record, children)
        return SURPRISED if story.surprises else 0

    async def _start(self, setting: Setting, stack: AsyncExitStack) -> list[Child]:
        self._screen.title("OpenMCP: a sidecar between AI agents and the MCP servers they use")
        self._screen.act("A sample MCP server, and what agents may do with it")
        module = "openmcp.sidecar.demo.server"
        server = await stack.enter_async_context(child("server", module, [str(setting.server_port)], setting.folder))
        self._screen.say(f"The server: {setting.server_url}, on the official SDK (process {server.pid}).")
        self._screen.say(f"What agents may do: {setting.configuration}\n")
        self._screen.yaml(shown(setting.configuration.read_text(encoding="utf-8")))
        await server.until(lambda: listening(setting.server_port))
        self._screen.act("The sidecar")
        arguments = ["run", "-c", str(setting.configuration)]
        sidecar = await stack.enter_async_context(child("sidecar", "openmcp.sidecar.cli", arguments, setting.folder))
        await sidecar.until(lambda: answers(f"{setting.admin}/readyz"))
        self._screen.copy(f"$ openmcp {' '.join(arguments)}")
        self._screen.checked(f"ready: agents call {setting.url} (process {sidecar.pid})", good=True)
        return [server, sidecar]

    def _conclude(self, surprises: int) -> None:
        self._screen.blank()
        if surprises:
            self._screen.checked(f"{surprises} of these did not come out as told", good=False)
        else:
            self._screen.say("All of it came out as told.", style="bold")

    async def _stay(self, setting: Setting, record: Record, children: list[Child]) -> None:
        self._screen.act("Now you (in another terminal; Ctrl-C here ends it all)")
        for what, lines in invitations(setting):
            self._screen.say(f"\n# {what}:", style="bold")
            self._screen.copy(lines)
        self._screen.say("\nWhat you do shows here:", style="bold")
        began, head = 0.0, True
        while not self._screen.gone:
            rows = list(record.more())
            if rows:
                began = began or rows[0].began
                self._screen.record(rows, began, head=head)
                head = False
            for each in children:
                each.check()
            await asyncio.sleep(LOOK_SECONDS)
