"""The reference of gateway.yaml has every key of the model, and its example is accepted as it stands."""

import re
import types
import typing
from pathlib import Path

import msgspec
import pytest

from openmcp.config import Loaded, model
from tests.config.sources import HEAD, outcome, warnings

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
RENAMED = {"except_": "except", "on_failure": "onFailure", "networks": "from", "sender": "from"}


def structs(kind: object) -> typing.Iterator[type[msgspec.Struct]]:
    """All structs that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for annotation in typing.get_type_hints(kind).values():
            yield from structs(annotation)
    elif isinstance(kind, types.UnionType | types.GenericAlias) or typing.get_origin(kind) is not None:
        for part in typing.get_args(kind):
            yield from structs(part)


def key(field: str) -> str:
    first, *rest = RENAMED.get(field, field).split("_")
    return first + "".join(map(str.capitalize, rest))


def test_every_key_of_the_model_is_in_the_reference():
    keys = {key(field) for kind in structs(model.Configuration) for field in kind.__struct_fields__}
    assert {"mcp", "pinTools", "maxUses", "trustDomain", "signingKey"} <= keys
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    named = set(re.findall(r"[A-Za-z0-9]+", " ".join(re.findall(r"`[^`\n]+`", prose))))
    assert keys - named == set()


def test_every_operator_is_in_the_reference():
    assert {operator.value for operator in model.Operator} <= set(re.findall(r"`([A-Za-z]+)`", TEXT))


def test_the_example_is_accepted_without_a_warning():
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert example is not None
    assert example[1].startswith(HEAD)
    assert warnings(example[1].removeprefix(HEAD)) == []


def test_the_example_of_approvals_is_accepted_without_a_warning():
    example = re.search(r"```yaml\n(approvals:.*?)```", TEXT, re.DOTALL)
    assert example is not None
    assert warnings(example[1]) == []


IDENTITY = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
POLICY = "policies: [{name: all, servers: ['*'], requests: [{name: r, action: allow}]}]\n"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", IDENTITY, re.DOTALL))
def test_the_examples_of_identity_are_accepted_without_a_warning(example):
    served = "servers:" in example
    assert warnings(example + (f"identity: {{agents: [{{type: none}}]}}\n{POLICY}" if served else "")) == []


CRDS = (Path(__file__).parents[2] / "docs" / "crds.md").read_text()


def test_the_objects_in_the_description_of_crds_are_accepted_without_a_warning():
    (example,) = re.findall(r"```yaml\n(.*?)```", CRDS, re.DOTALL)
    found = outcome({"objects.yaml": example}, "objects.yaml")
    assert isinstance(found, Loaded), str(found)
    assert found.warnings == ()


def test_the_reasons_for_refusals_are_those_of_the_code():
    """The table of reasons names what certificates and contexts say."""
    modules = ("certificates.py", "contexts.py", "tls.py")
    said = "".join((Path(__file__).parents[2] / "identity" / name).read_text() for name in modules)
    table = IDENTITY.split("| reason | what to look at |")[1].split("\n\n")[0]
    reasons = re.findall(r"`([^`]+)`", " ".join(line.split("|")[1] for line in table.strip().splitlines()[1:]))
    assert len(reasons) == 9
    assert [reason for reason in reasons if f'"{reason}"' not in said] == []


def test_every_method_is_in_the_table_of_methods():
    table = IDENTITY.split("| `type` | applies to | proves |")[1].split("\n\n")[0]
    methods = {kind.__struct_config__.tag for kind in typing.get_args(model.AgentIdentification)}
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == methods
