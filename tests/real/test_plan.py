"""Plans against the real thing, offline: the CRDs of Envoy Gateway and Gateway API, and Envoy Gateway's translator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from openmcp.config import load
from openmcp.config.plan import Plan, plan
from tests.config.planning import FOLDER, MODES, called, cases
from tests.real_parts import install
from tests.support.crds import Definitions
from tests.support.egctl import translated
from tests.support.furnish import furnish
from tests.support.parts import require

pytestmark = pytest.mark.real

Json = Mapping[str, Any]
LOOPBACK = "in the loopback range is only supported when using the Host infrastructure"


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    """The published CRDs."""
    require("envoygateway", "aigateway")
    return Definitions([install.files("envoygateway"), install.files("aigateway")])


def made(file: Path, mode: str) -> Plan:
    return plan(load(file).configuration, MODES[mode])


@pytest.mark.parametrize(("file", "mode"), cases(*MODES), ids=called)
def test_every_object_is_one_that_the_definitions_take(file: Path, mode: str, definitions: Definitions) -> None:
    before = definitions.rules
    faults = [fault for document in made(file, mode).documents for fault in definitions.faults(document)]
    assert faults == []
    assert definitions.rules > before + 10


def wrong(document: Json, *path: str | int, value: object) -> Json:
    """Return a copy that says something else at this place."""
    changed = copy.deepcopy(dict(document))
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "0 seconds"),  # a pattern
        ("HTTPRoute", ("spec", "rules", 0, "timeout"), {}),  # a key that there is not
        ("Backend", ("spec", "endpoints", 0, "ip"), {"address": "10.0.0.1", "port": 1}),  # a rule in CEL
        ("BackendTrafficPolicy", ("spec", "healthCheck", "active", "type"), "HTTP"),  # another one, deep inside
        ("SecurityPolicy", ("spec", "targetRefs", 0, "kind"), "Service"),
        ("Gateway", ("spec", "listeners", 0, "tls", "mode"), "Passthrough"),
        ("MCPRoute", ("spec", "parentRefs", 0, "kind"), "Service"),
    ],
)
def test_what_the_definitions_refuse_is_seen(
    kind: str, path: tuple[str | int, ...], value: object, definitions: Definitions
) -> None:
    mode = "ai" if kind == "MCPRoute" else "direct"
    document = next(one for one in made(FOLDER / "many.yaml", mode).documents if one["kind"] == kind)
    assert definitions.faults(document) == []
    assert definitions.faults(wrong(document, *path, value=value)) != []


def refusals(told: object, path: str = "") -> Iterator[str]:
    """The conditions that are not true, with their place."""
    if isinstance(told, dict):
        if told.get("status") == "False" and "reason" in told:
            yield f"{path}: {told['reason']}: {told.get('message')}"
        for key, value in told.items():
            yield from refusals(value, f"{path}.{key}")
    elif isinstance(told, list):
        for index, value in enumerate(told):
            yield from refusals(value, f"{path}[{index}]")


@pytest.mark.parametrize(("file", "mode"), cases("direct", "behind"), ids=called)
def test_envoy_gateway_translates_it_and_every_condition_is_true(file: Path, mode: str, tmp_path: Path) -> None:
    require("envoygateway")
    documents = list(made(file, mode).documents)
    told = translated([*documents, *furnish(documents, trustme.CA())], tmp_path)
    # the examples are for one machine, which the plan warns of
    assert [fault for fault in refusals(told) if LOOPBACK not in fault] == []
    assert "xds" in told


def test_a_plan_without_its_secrets_is_seen_to_lack_them(tmp_path: Path) -> None:
    require("envoygateway")
    told = translated(list(made(FOLDER / "sessions.yaml", "direct").documents), tmp_path)
    assert any("openmcp-api-keys" in fault for fault in refusals(told))
