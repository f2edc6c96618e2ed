"""Good and bad objects offline: `validate`, and what a sidecar and the status writer make of the same objects."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from openmcp.config.kubernetes.assemble import Object, assemble, parse
from tests.support.fixture_objects import FOLDER, files, objects, offline
from tests.support.golden import check_golden

ALL = [file for kind in ("good", "refused", "later") for file in files(kind)]


def named(file: Path) -> str:
    return str(file.relative_to(FOLDER).with_suffix(""))


def test_there_are_enough():
    assert len(ALL) >= 40
    assert {file.parent.name for file in ALL} == {"good", "refused", "later"}


@pytest.mark.parametrize("file", files("good"), ids=named)
def test_the_good_ones_are_accepted(file):
    assert offline(file) == []


@pytest.mark.parametrize("file", [*files("refused"), *files("later")], ids=named)
def test_the_bad_ones_are_refused_for_one_reason(file):
    assert len(offline(file)) == 1


def test_the_reasons():
    told = "".join(f"{named(file)}\n  {message}\n" for file in ALL for message in offline(file))
    check_golden("objects/validate.txt", told)


@pytest.mark.parametrize("file", ALL, ids=named)
def test_a_list_of_them_is_judged_alike(file):
    """As `kubectl get -o yaml` writes them."""
    listed = {"apiVersion": "v1", "kind": "List", "items": objects(file)}
    with TemporaryDirectory() as folder:
        path = Path(folder, "list.yaml")
        path.write_text(json.dumps(listed))
        inside = [re.sub(r"^\d+: items\[\d\]\.?", "", message) for message in offline(path)]
    assert without_lines(inside) == without_lines([re.sub(r"^\d+: ", "", message) for message in offline(file)])


def without_lines(messages: list[str]) -> list[str]:
    """Messages without what differs by where an object came from: the line of the first of two."""
    return [re.sub(r" \(first at [^)]*\)", "", message) for message in messages]


@pytest.mark.parametrize("file", [file for file in ALL if file.stem != "object-name"], ids=named)
def test_what_a_cluster_holds_is_judged_alike(file):
    """The status that is written has the messages of `validate`; `object-name` cannot be in a cluster."""
    held = [
        Object(
            kind=found["kind"],
            namespace="support-ai",
            name=found["metadata"]["name"],
            uid=str(number),
            generation=1,
            created=f"2026-11-21T10:00:{number:02}Z",
            spec=json.dumps(found["spec"]).encode(),
        )
        for number, found in enumerate(yaml.safe_load_all(file.read_text()))
    ]
    verdicts = assemble((), [parse(one, "") for one in held], {}).verdicts
    said = [f"{error.path}: {error.message}" for verdict in verdicts for error in verdict.errors]
    expected = [re.sub(r"^\d+: ", "", message) for message in offline(file)]
    assert [message.startswith(part) for message, part in zip(expected, said, strict=True)] == [True] * len(expected)
    assert [verdict.accepted for verdict in verdicts].count(False) == len(expected)
