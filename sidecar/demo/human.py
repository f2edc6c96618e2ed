"""The human of the demo: whoever sits at the terminal, or `openmcp approvals` in their place."""

import asyncio
import json
import sys
from typing import Any, Final

from openmcp.sidecar.demo.children import GLANCE, Failed
from openmcp.sidecar.demo.screen import Screen
from openmcp.sidecar.demo.setting import Setting

ASKED_SECONDS: Final = 30.0
"""How long a request may take to be there."""
HUMAN_SECONDS: Final = 90.0
"""How long the demo waits for somebody to open the page; then it goes on by itself."""


class Human:
    """Approves what the agent asks for; `auto`: without waiting for anybody."""

    def __init__(self, screen: Screen, setting: Setting, *, auto: bool) -> None:
        self._screen = screen
        self._setting = setting
        self._auto = auto

    async def approve(self, call: "asyncio.Task[Any]") -> None:
        """See to it that what this call waits for is approved. Raises Failed where it asks for nothing."""
        rid = await self._asked()
        self._screen.say("\nSomebody is asked, on this page:")
        self._screen.copy(f"{self._setting.console}/requests/{rid}")
        self._screen.say(f"Log in with the token {self._setting.token}")
        if not self._auto:
            self._screen.say(f"Approve it there; after {HUMAN_SECONDS:.0f} seconds the demo does.", style="bold")
            done, _ = await asyncio.wait([call], timeout=HUMAN_SECONDS)
            if done:
                return
        self._screen.say("\nThe same from a terminal:")
        self._screen.copy(f"$ openmcp approvals approve {rid} --reason agreed")
        await self._run("approve", rid, "--reason", "agreed")

    async def _asked(self) -> str:
        """The id of the request that waits."""
        async with asyncio.timeout(ASKED_SECONDS):
            while True:
                found = json.loads(await self._run("list", "--json"))
                waiting = [one["id"] for one in found if one["status"] == "pending"]
                if waiting:
                    return str(waiting[0])
                await asyncio.sleep(GLANCE)

    async def _run(self, *words: str) -> bytes:
        configuration = str(self._setting.configuration)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openmcp.sidecar.cli", "approvals", *words, "-c", configuration),
            cwd=self._setting.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, wrong = await process.communicate()
        if process.returncode != 0:
            raise Failed(f"openmcp approvals {words[0]}: {wrong.decode(errors='replace').strip()}")
        return said
