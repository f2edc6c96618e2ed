"""`openmcp explain`: the decision on one call, and why."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from openmcp.config import ConfigurationError
from openmcp.config.kubernetes import opening
from openmcp.config.model import Configuration
from openmcp.sidecar.commands import grants as grant
from openmcp.sidecar.commands.common import OUTSIDE, WRONG_INPUT, config_option
from openmcp.sidecar.commands.explanation import Explanation
from openmcp.sidecar.commands.questions import Question, WrongQuestion, call_for, check_agent, check_server
from openmcp.sidecar.errors import Malformed
from openmcp.sidecar.mcp import jsonrpc
from openmcp.sidecar.mcp.values import Call
from openmcp.sidecar.policy.decision import Decision
from openmcp.sidecar.policy.engine import PolicySet
from openmcp.sidecar.state.opening import CannotOpen
from openmcp.sidecar.state.records import ApprovalRecord, UnknownSchema
from openmcp.sidecar.state.store import StoreUnavailable


def _arguments(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        read = jsonrpc.decode(value.encode("utf-8", "surrogateescape"))  # strictly, as what agents send
    except Malformed as error:
        raise click.BadParameter(f"not JSON that an agent could send: {error.message}") from None
    if not isinstance(read, dict):
        raise click.BadParameter('a JSON object is wanted: {"name": "value"}')
    return read


def _claims(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    if any("=" not in value for value in values):
        raise click.BadParameter("write NAME=VALUE")
    return tuple((name, text) for name, _, text in (value.partition("=") for value in values))


@click.command()
@config_option
@click.option("--agent", required=True, metavar="ID", help='The caller: "key:ci-bot", "anonymous", "spiffe://...".')
@click.option("--server", required=True, help="The MCP server, by its name in the configuration.")
@click.option("--tool", help="A tool that is called.")
@click.option("--resource", metavar="URI", help="A resource that is read.")
@click.option("--prompt", help="A prompt that is got.")
@click.option("--method", help="Another method of MCP: tools/list, completion/complete.")
@click.option("--args", "arguments", metavar="JSON", callback=_arguments, help="The arguments; the params of a method.")
@click.option("--claim", "claims", metavar="NAME=VALUE", multiple=True, callback=_claims, help="A claim of the agent.")
@click.option("--grants", is_flag=True, help="Look for the grant that the call would find, too.")
@click.option("--json", "as_json", is_flag=True, help="Tell the result as one JSON object.")
def explain(path: Path, agent: str, server: str, *, grants: bool, as_json: bool, **asked: Any) -> None:
    """Say what policy decides on a call, and why.

    Shows every rule that matches, the conditions that do not hold with the values they saw, and the rule that decides.
    """
    question = _question(agent, server, **asked)
    try:
        check_agent(agent)
        configuration = opening.loaded(path).configuration
        check_server(configuration, server)
        call = call_for(question)
        explanation = Explanation(PolicySet(configuration.policies), question, call)
    except (ConfigurationError, WrongQuestion) as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_INPUT)
    except opening.NoCluster as error:
        click.echo(f"{path}: source: {error}", err=True)
        sys.exit(OUTSIDE)
    found = _granted(configuration, question, call, explanation.decision) if grants else ()
    if as_json:
        more = {"grant": grant.told(found[0])} if found else {}
        click.echo(json.dumps(explanation.told() | more, indent=2))
        return
    for line in (*explanation.lines(), *(grant.line(one) for one in found)):
        click.echo(line)


def _granted(
    configuration: Configuration, question: Question, call: Call, decision: Decision
) -> tuple[ApprovalRecord | None]:
    try:
        return (grant.look(configuration, question.principal, question.server, call, decision),)
    except grant.NoGrants as error:
        click.echo(f"--grants: {error}", err=True)
        sys.exit(WRONG_INPUT)
    except (CannotOpen, StoreUnavailable, UnknownSchema) as error:
        click.echo(str(error), err=True)
        sys.exit(OUTSIDE)


def _question(agent: str, server: str, arguments: Any, claims: tuple[tuple[str, str], ...], **things: str) -> Question:
    given = [(kind, name) for kind, name in things.items() if name is not None]
    if len(given) != 1:
        raise click.UsageError("exactly one of --tool, --resource, --prompt and --method is wanted")
    kind, name = given[0]
    if kind == "resource" and arguments is not None:
        raise click.UsageError("--args has no meaning with --resource: a resource is read by its URI alone")
    return Question(agent=agent, server=server, kind=kind, asked=name, arguments=arguments, claims=claims)
