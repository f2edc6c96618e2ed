"""What is written on an object, and that nothing is written twice."""

import pytest

from openmcp.config.kubernetes.assemble import Object, Standing, Verdict
from openmcp.config.problems import Problem
from openmcp.injector.conditions import MOST, changed, wanted

NOW, BEFORE = "2026-11-21T12:00:00Z", "2026-11-20T12:00:00Z"
OBJECT = Object("MCPPolicy", "support-ai", "tickets", "u-1", 3, BEFORE, b"{}")


def problem(message, hint=None):
    place = "MCPPolicy support-ai/tickets"
    return Problem(file=place, line=None, path="spec.servers[0]", message=message, hint=hint)


ACCEPTED = wanted(Verdict(OBJECT, Standing.CURRENT))
REFUSED = wanted(Verdict(OBJECT, Standing.DENIED, (problem("there is no server zendesk", "one of: github"),)))


def test_the_message_is_that_of_validate():
    assert ACCEPTED == {
        "type": "Accepted",
        "status": "True",
        "reason": "Valid",
        "message": "",
        "observedGeneration": 3,
    }
    assert REFUSED == {
        "type": "Accepted",
        "status": "False",
        "reason": "Invalid",
        "message": "MCPPolicy support-ai/tickets: spec.servers[0]: there is no server zendesk (one of: github)",
        "observedGeneration": 3,
    }


def test_warnings_are_told_too():
    told = wanted(Verdict(OBJECT, Standing.CURRENT, warnings=(problem("matches nothing"), problem("odd"))))
    assert (told["status"], told["message"]) == (
        "True",
        "warning: MCPPolicy support-ai/tickets: spec.servers[0]: matches nothing\n"
        "warning: MCPPolicy support-ai/tickets: spec.servers[0]: odd",
    )


@pytest.mark.parametrize("standing", [Standing.PREVIOUS, Standing.DENIED])
def test_what_is_not_in_force_as_it_stands_is_refused(standing):
    assert wanted(Verdict(OBJECT, standing, (problem("x"),)))["status"] == "False"


def test_a_long_message_is_cut_to_what_the_api_server_takes():
    told = wanted(Verdict(OBJECT, Standing.DENIED, tuple(problem("x" * 1000) for _ in range(50))))
    assert len(told["message"]) == MOST
    assert told["message"].endswith("\n...")


def status(condition, since=BEFORE, *others):
    return {"observedGeneration": 3, "conditions": [*others, condition | {"lastTransitionTime": since}]}


@pytest.mark.parametrize("nothing", [None, {}, {"conditions": None}, {"conditions": "x"}, {"conditions": [5]}, 7])
def test_where_nothing_is_all_is_written(nothing):
    assert changed(nothing, ACCEPTED, NOW) == status(ACCEPTED, NOW)


def test_what_is_there_is_not_written_again():
    assert changed(status(ACCEPTED), ACCEPTED, NOW) is None
    assert changed(status(REFUSED), REFUSED, NOW) is None


def test_the_time_is_that_of_the_last_change_between_true_and_false():
    assert changed(status(ACCEPTED), REFUSED, NOW) == status(REFUSED, NOW)
    other = REFUSED | {"message": "another one"}
    assert changed(status(REFUSED), other, NOW) == status(other, BEFORE)


def test_a_new_generation_is_observed():
    newer = ACCEPTED | {"observedGeneration": 4}
    assert changed(status(ACCEPTED), newer, NOW) == status(newer) | {"observedGeneration": 4}
    assert changed(status(ACCEPTED) | {"observedGeneration": 2}, ACCEPTED, NOW) == status(ACCEPTED)


def test_conditions_of_others_stay():
    other = {"type": "Seen", "status": "True", "reason": "x", "message": "", "lastTransitionTime": BEFORE}
    assert changed(status(ACCEPTED, BEFORE, other), REFUSED, NOW) == status(REFUSED, NOW, other)
