"""Who may write servers gets none of the sidecar's own secrets by naming them."""

from pathlib import Path

import pytest

from openmcp.config.kubernetes.guard import OWN, fault
from openmcp.config.model import (
    Approvals,
    Configuration,
    HeaderAuth,
    OAuthAuth,
    OAuthClient,
    Secret,
    Server,
    Sessions,
    SlackChannel,
    SpiffeAuth,
)

CHANNEL = SlackChannel(
    name="chat", mode="http", channel="C", token=Secret(env="SLACK_TOKEN"), signing_secret=Secret(env="SLACK_SIGNING")
)


def header(secret: Secret) -> Server:
    return Server(name="s", path="/s", endpoints=("https://h/",), auth=HeaderAuth(name="X-Key", value=secret))


def oauth(secret: Secret) -> Server:
    client = OAuthClient(id="us", type="secret", secret=secret)
    return Server(name="s", path="/s", endpoints=("https://h/",), auth=OAuthAuth(token_url="https://t/", client=client))


@pytest.fixture
def made(tmp_path: Path) -> Configuration:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "session.key").write_text("key")
    (tmp_path / "session.key").symlink_to("..data/session.key")
    sessions = Sessions(key=Secret(file=str(tmp_path / "session.key")))
    return Configuration(sessions=sessions, approvals=Approvals(channels=(CHANNEL,)))


@pytest.mark.parametrize("server", [header, oauth])
@pytest.mark.parametrize(
    "secret",
    [
        Secret(env="SLACK_TOKEN"),
        Secret(env="SLACK_SIGNING"),
        Secret(env="AWS_SECRET_ACCESS_KEY"),
        Secret(file="/var/run/secrets/kubernetes.io/serviceaccount/token"),
        Secret(file="/var/run/secrets/../secrets/eks.amazonaws.com/serviceaccount/token"),
        Secret(file="/run/secrets/tokens/gcp"),
        Secret(file="/proc/self/environ"),
        Secret(file="/etc/../proc/1/environ"),
    ],
    ids=str,
)
def test_what_is_the_sidecars_own_goes_to_no_server(made: Configuration, server, secret: Secret):
    assert fault(made, server(secret)) == OWN


@pytest.mark.parametrize("name", ["session.key", "..data/session.key", "./x/../session.key"])
def test_whatever_links_lead_there(made: Configuration, tmp_path: Path, name: str):
    assert fault(made, header(Secret(file=f"{tmp_path}/{name}"))) == OWN


def test_what_is_for_servers_goes_there(made: Configuration, tmp_path: Path):
    assert fault(made, header(Secret(env="ZENDESK_TOKEN"))) is None
    assert fault(made, header(Secret(file="/var/run/secrets/zendesk/token"))) is None
    assert fault(made, oauth(Secret(file=str(tmp_path / "zendesk")))) is None
    assert fault(made, Server(name="s", path="/s", endpoints=("https://h/",))) is None
    spiffe = SpiffeAuth(server_ids=("spiffe://a/b",))
    assert fault(made, Server(name="s", path="/s", endpoints=("https://h/",), auth=spiffe)) is None
