"""Who may write servers gets none of the sidecar's own secrets by naming them."""

from pathlib import Path

import pytest

from openmcp.config.kubernetes.guard import OURS, OWN, PROGRAM, fault
from openmcp.config.model import (
    Approvals,
    Configuration,
    HeaderAuth,
    Identity,
    JwtSvidAgents,
    JwtSvidAuth,
    OAuthAuth,
    OAuthClient,
    Secret,
    Server,
    Sessions,
    SlackChannel,
    SpiffeAuth,
    Stdio,
)
from openmcp.identity.aws import AUDIENCE

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


def test_programs_are_for_the_file(made: Configuration):
    assert fault(made, Server(name="s", path="/s", stdio=Stdio(command="cat"))) == PROGRAM


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


def test_a_machine_whose_folders_are_elsewhere_says_the_same(made: Configuration, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.path.realpath", lambda path: f"/private{path}")
    for name in ("/var/run/secrets/kubernetes.io/serviceaccount/token", "/var/./run/../run/secrets/azure/token"):
        assert fault(made, header(Secret(file=name))) == OWN


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


@pytest.mark.parametrize(
    ("audience", "said"),
    [
        (AUDIENCE, OURS),
        ("//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q", OURS),
        ("api://AzureADTokenExchange", OURS),
        ("https://sidecars.example", OURS),
        ("https://zendesk.example", None),
    ],
)
def test_proofs_for_clouds_and_for_sidecars_go_to_no_server(audience: str, said: str | None):
    """A JWT-SVID for the audience of AWS is the role that keeps approvals, wherever it was sent."""
    agents = (JwtSvidAgents(audience="https://sidecars.example", trust_domains=("a",)),)
    made = Configuration(identity=Identity(agents=agents))
    client = OAuthClient(id="us", type="jwtSvid", audience=audience)
    for auth in (
        JwtSvidAuth(audience=audience),
        OAuthAuth(token_url="https://t/", client=client),
        OAuthAuth(token_url=audience, client=OAuthClient(id="us", type="jwtSvidSpiffe")),
    ):
        assert fault(made, Server(name="s", path="/s", endpoints=("https://h/",), auth=auth)) == said


@pytest.mark.parametrize(
    "auth",
    [
        JwtSvidAuth(audience="https://crm.example"),
        OAuthAuth(token_url="https://t/", client=OAuthClient(id="us", type="jwtSvid", audience="https://crm.example")),
        OAuthAuth(token_url="https://crm.example", client=OAuthClient(id="us", type="jwtSvidSpiffe")),
    ],
)
def test_what_proves_us_to_a_server_of_the_file_goes_to_no_other(auth: JwtSvidAuth | OAuthAuth):
    """Whoever is sent it calls that server, or gets a token for it, as the sidecar."""
    made = Configuration(servers=(Server(name="crm", path="/crm", endpoints=("https://crm/",), auth=auth),))
    for audience, said in (("https://crm.example", OURS), ("https://other.example", None)):
        theirs = JwtSvidAuth(audience=audience)
        assert fault(made, Server(name="s", path="/s", endpoints=("https://h/",), auth=theirs)) == said
