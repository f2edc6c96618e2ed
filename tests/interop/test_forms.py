"""The forms a server of the legacy era can have: with sessions or without, answering by streams or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.interop.clients import PythonClient
from tests.interop.plans import OUR_PLAN, OUR_REPORT, PYTHON, Routes

# Nobody can be asked without a session or a stream.
PLAN = [step for step in OUR_PLAN if step["do"] != "ask"]
FORMS = [
    pytest.param(replace(PYTHON, plan=PLAN, options=options), id=" ".join(options))
    for options in [("--stateless",), ("--json",), ("--stateless", "--json")]
]


@pytest.mark.parametrize("routes", FORMS, indirect=True)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_every_form_of_server_gives_what_it_gives_directly(routes: Routes, mode: str) -> None:
    upstream, direct, through = routes
    report = await PythonClient(mode).play(through, upstream)

    assert report == await PythonClient(mode).play(direct, upstream)
    assert report[1:3] == OUR_REPORT[:2]
