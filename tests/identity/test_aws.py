"""AWS by our SVID: what STS is asked, what is done with its answer, and what is said where it refuses."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import boto3
import jwt
import pytest
from botocore.exceptions import CredentialRetrievalError
from botocore.session import Session
from moto.server import ThreadedMotoServer

from openmcp.identity import aws
from openmcp.identity.material import NoIdentity, Svid
from tests.fakes import pki
from tests.support.hostile import Hostile, Reply, Request, hostile

ID = "spiffe://prod.acme.example/gateway"
ROLE = "arn:aws:iam::123456789012:role/openmcp-state"
KEY = pki.jwt_key()
CA = pki.Ca("prod.acme.example")


class Source:
    """Our SVIDs; each JWT-SVID is another. With `problem` there is none; with `silent` none ever comes."""

    def __init__(self) -> None:
        self.problem = ""
        self.silent = False
        self.audiences: list[str] = []

    def own(self) -> Svid:
        if self.problem:
            raise NoIdentity(self.problem)
        return pki.svid(CA, ID)

    async def jwt_svid(self, audience: str) -> str:
        if self.silent:
            await asyncio.get_running_loop().create_future()
        self.audiences.append(audience)
        return pki.mint_jwt(KEY, {"sub": ID, "aud": [audience], "jti": str(len(self.audiences))})


class Sts:
    """STS, strict about what it is asked. `lifetime` is that of its credentials, in seconds."""

    def __init__(self) -> None:
        self.lifetime = 3600.0
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, request: Request, reply: Reply) -> None:
        form = {name: values[0] for name, values in parse_qs(request.body.decode(), strict_parsing=True).items()}
        assert request.method == "POST"
        assert request.header("authorization") is None, "AssumeRoleWithWebIdentity is not signed"
        assert request.header("x-amz-security-token") is None
        token = form.pop("WebIdentityToken")
        claims = jwt.decode(token, KEY.key.public_key(), algorithms=["ES256"], audience="sts.amazonaws.com")
        assert (claims["sub"], claims["aud"]) == (ID, ["sts.amazonaws.com"])
        assert re.fullmatch(r"[\w+=,.@-]{2,64}", form["RoleSessionName"], re.ASCII)
        self.asked.append(form | {"jti": claims["jti"]})
        await reply.respond(self.answer().encode(), content_type="text/xml")

    def answer(self) -> str:
        """The credentials of the present answer are numbered."""
        end = datetime.fromtimestamp(time.time() + self.lifetime, UTC).isoformat().replace("+00:00", "Z")
        number = len(self.asked)
        return f"""
            <AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
              <AssumeRoleWithWebIdentityResult>
                <SubjectFromWebIdentityToken>{ID}</SubjectFromWebIdentityToken>
                <AssumedRoleUser>
                  <Arn>arn:aws:sts::123456789012:assumed-role/openmcp-state/x</Arn>
                  <AssumedRoleId>AROA123456789EXAMPLE:x</AssumedRoleId>
                </AssumedRoleUser>
                <Credentials>
                  <SessionToken>session-{number}</SessionToken>
                  <SecretAccessKey>secret-{number}</SecretAccessKey>
                  <Expiration>{end}</Expiration>
                  <AccessKeyId>ASIA{number:016}</AccessKeyId>
                </Credentials>
              </AssumeRoleWithWebIdentityResult>
              <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>
            </AssumeRoleWithWebIdentityResponse>""".strip()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's keys lie about, which must not be used."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODYELSE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "somebody-else")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
async def sts() -> AsyncIterator[Hostile]:
    async with hostile() as running:
        running.handler = Sts()
        running.url = running.url.removesuffix("/mcp")
        yield running


async def credentials(session: Session) -> Any:
    """The credentials that a client would sign with."""
    found = await asyncio.to_thread(lambda: session.get_credentials().get_frozen_credentials())
    return found.access_key, found.secret_key, found.token


async def refused(session: Session) -> str:
    """Why there are no credentials."""
    with pytest.raises(CredentialRetrievalError) as failure:
        await credentials(session)
    prefix = "Error when retrieving credentials from spiffe: "
    assert str(failure.value).startswith(prefix)
    return str(failure.value).removeprefix(prefix)


async def test_our_jwt_svid_becomes_credentials_of_the_role(sts: Hostile) -> None:
    source = Source()
    session = aws.session(source, ROLE, "eu-central-1", sts.url)
    assert (sts.requests, source.audiences) == ([], [])
    for _ in range(3):
        assert await credentials(session) == ("ASIA0000000000000001", "secret-1", "session-1")
    assert sts.handler.asked == [
        {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": ROLE,
            "RoleSessionName": aws.session_name(ID),
            "DurationSeconds": "3600",
            "jti": "1",
        }
    ]
    assert source.audiences == ["sts.amazonaws.com"]
    assert session.get_config_variable("region") == "eu-central-1"


async def test_credentials_near_their_end_are_renewed_with_another_token(sts: Hostile) -> None:
    session = aws.session(Source(), ROLE, "eu-central-1", sts.url)
    sts.handler.lifetime = 300.0
    assert (await credentials(session))[1] == "secret-1"
    assert (await credentials(session))[1] == "secret-2"
    assert [asked["jti"] for asked in sts.handler.asked] == ["1", "2"]


async def test_while_sts_is_down_the_credentials_serve_until_their_end(sts: Hostile) -> None:
    async def down(request: Request, reply: Reply) -> None:
        await reply.respond(b"", status=400)

    session = aws.session(Source(), ROLE, "eu-central-1", sts.url)
    sts.handler.lifetime = 800.0  # the window in which botocore tries and goes on
    assert (await credentials(session))[1] == "secret-1"
    sts.handler = down
    assert (await credentials(session))[1] == "secret-1"
    assert len(sts.requests) == 2


def error(code: str, message: str) -> Callable[[Request, Reply], Any]:
    """STS that answers this error."""
    said = f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
    body = f"<ErrorResponse><Error>{said}</Error></ErrorResponse>"

    async def handler(request: Request, reply: Reply) -> None:
        await reply.respond(body.encode(), status=403, content_type="text/xml")

    return handler


async def test_a_refusal_names_the_role_and_the_reason(sts: Hostile) -> None:
    session = aws.session(Source(), ROLE, "eu-central-1", sts.url)
    sts.handler = error("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
    why = await refused(session)
    assert why == f"STS refused {ROLE}: AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity"
    sts.handler = Sts()
    assert (await credentials(session))[1] == "secret-1"


async def test_sts_that_is_not_there() -> None:
    session = aws.session(Source(), ROLE, "eu-central-1", "http://127.0.0.1:1")
    assert await refused(session) == (
        'STS cannot be used: Could not connect to the endpoint URL: "http://127.0.0.1:1/"'
    )


async def test_without_an_svid_sts_is_not_asked(sts: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    session = aws.session(source, ROLE, "eu-central-1", sts.url)
    source.problem = "no registration entry"
    assert await refused(session) == "no registration entry"
    source.problem, source.silent = "", True
    monkeypatch.setattr(aws, "PATIENCE", 0.1)
    assert await refused(session) == "the Workload API gave no JWT-SVID in 0.1 s"
    assert sts.requests == []


async def test_the_loop_does_not_wait_for_itself(sts: Hostile) -> None:
    session = aws.session(Source(), ROLE, "eu-central-1", sts.url)
    with pytest.raises(RuntimeError, match="AWS is used from a thread"):
        session.get_credentials().get_frozen_credentials()


def test_the_name_of_a_session_is_one_that_sts_takes() -> None:
    longest = "spiffe://" + "d" * 255 + "/" + "p" * 1700
    names = {aws.session_name(name) for name in (ID, ID + "2", longest)}
    assert len(names) == 3
    assert all(re.fullmatch(r"[\w+=,.@-]{2,64}", name, re.ASCII) for name in names)
    assert aws.session_name(ID) == aws.session_name(ID)


def test_botocore_is_loaded_when_it_is_used() -> None:
    program = "import sys, openmcp.identity.aws; sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_without_botocore_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ImportError, match=r"pip install 'openmcp\[aws\]'"):
        aws.session(Source(), ROLE, "eu-central-1")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """AWS's API, as moto serves it over HTTP."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


async def test_a_client_of_moto_acts_in_the_role(moto: str) -> None:
    made = boto3.Session(botocore_session=aws.session(Source(), ROLE, "eu-central-1", moto))

    def use() -> tuple[str, list[str]]:
        caller = made.client("sts", endpoint_url=moto).get_caller_identity()["Arn"]
        tables = made.client("dynamodb", endpoint_url=moto)
        tables.create_table(
            TableName="grants",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        return caller, tables.list_tables()["TableNames"]

    caller, tables = await asyncio.to_thread(use)
    assert caller == f"arn:aws:sts::123456789012:assumed-role/openmcp-state/{aws.session_name(ID)}"
    assert tables == ["grants"]
