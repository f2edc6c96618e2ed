"""Login by OpenID Connect: authorization code with PKCE, state and nonce (OpenID Connect Core 1.0, 3.1; RFC 9700).

Authlib makes the challenge and checks the claims, joserfc (which it brings) the signature; what is fetched goes through
`identity.fetch`, bounded and over TLS. A login that is under way is kept by its browser, in a sealed cookie: it belongs
to that browser alone, and nobody can fill our memory with logins that never end.
"""

import hmac
import json
import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from openmcp.identity.bearer import is_unverified
from openmcp.identity.fetch import FetchFailed, Form, get, post_form
from openmcp.sidecar.approvals.console.settings import LoginFailed, Oidc, Person
from openmcp.sidecar.approvals.safetext import safe
from openmcp.sidecar.sealing import KEY_BYTES, Sealer

_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_PURPOSE: Final = b"console login"
_PATIENCE: Final = 10 * 60_000
"""Milliseconds that a person may take at the provider."""
_METADATA_AGE: Final = 60 * 60_000
_SKEW: Final = 60
_MOST_NAME: Final = 255


class _Metadata(msgspec.Struct, frozen=True):
    """What we use of a provider's metadata (OpenID Connect Discovery 1.0, 3; RFC 9207, 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str | None = None


class _UnderWay(msgspec.Struct, frozen=True, array_like=True):
    state: str
    nonce: str
    verifier: str
    target: str
    until: int


class OidcLogin:
    """The logins of one provider. `redirect` is our callback's URL; `clock` tells Unix milliseconds."""

    def __init__(self, settings: Oidc, redirect: str, clock: Callable[[], int]) -> None:
        self.settings = settings
        self._redirect = redirect
        self._clock = clock
        self._sealer = Sealer(secrets.token_bytes(KEY_BYTES))
        self._metadata: tuple[_Metadata, int] | None = None

    async def begin(self, target: str) -> tuple[str, str]:
        """Where to send a browser that is to end at `target`, and the cookie it keeps. Raises `LoginFailed`."""
        metadata = await self._provider()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = prepare_grant_uri(
            metadata.authorization_endpoint,
            self.settings.client_id,
            "code",
            redirect_uri=self._redirect,
            scope=" ".join(dict.fromkeys(("openid", *self.settings.scopes))),
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        login = _UnderWay(state, nonce, verifier, target, self._clock() + _PATIENCE)
        return str(url), self._sealer.seal(_PURPOSE, login)

    async def finish(self, cookie: str | None, query: Mapping[str, str]) -> tuple[Person, str]:
        """Who comes back from the provider, and where to. Raises `LoginFailed`. The cookie has to go then."""
        login = self._sealer.open(_PURPOSE, cookie or "", _UnderWay)
        if login is None or self._clock() >= login.until or not _same(login.state, query.get("state")):
            raise LoginFailed("This login was not begun in this browser, or too long ago.")
        metadata = await self._provider()
        said = query.get("iss")
        if said != metadata.issuer and (said is not None or metadata.authorization_response_iss_parameter_supported):
            raise LoginFailed("The answer is of another identity provider.")
        if "code" not in query:
            raise LoginFailed(f"The identity provider says: {safe(query.get('error', 'nothing'), 100)[0]}.")
        tokens = await self._redeem(metadata, query["code"], login.verifier)
        claims = await self._claims(metadata, tokens, login.nonce)
        return self._person(claims), login.target

    async def _provider(self) -> _Metadata:
        now = self._clock()
        if self._metadata is not None and now < self._metadata[1]:
            return self._metadata[0]
        issuer = self.settings.issuer
        document = await self._get(get_well_known_url(issuer, external=True))
        try:
            metadata = msgspec.json.decode(document, type=_Metadata)
        except msgspec.DecodeError:
            raise LoginFailed("The identity provider's metadata cannot be read.") from None
        if metadata.issuer != issuer:
            raise LoginFailed("The identity provider calls itself by another name than approvals.oidc.issuer.")
        if urlsplit(metadata.authorization_endpoint).scheme != urlsplit(issuer).scheme:
            raise LoginFailed("The identity provider's login page is not on https.")
        self._metadata = (metadata, now + _METADATA_AGE)
        return metadata

    async def _redeem(self, metadata: _Metadata, code: str, verifier: str) -> _Tokens:
        """The tokens for a code (RFC 6749, 4.1.3; RFC 7636, 4.5)."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": verifier,
        }
        form = self._authenticated(fields, metadata.token_endpoint_auth_methods_supported)
        try:
            status, body = await post_form(metadata.token_endpoint, form, ca=self._ca())
        except FetchFailed as error:
            raise LoginFailed(f"The identity provider does not answer: {error.reason}.") from None
        if status != 200:
            raise LoginFailed(f"The identity provider refuses the login (HTTP {status}).")
        try:
            return msgspec.json.decode(body, type=_Tokens)
        except msgspec.DecodeError:
            raise LoginFailed("The identity provider gave no ID token.") from None

    def _authenticated(self, fields: dict[str, str], methods: tuple[str, ...]) -> Form:
        client, ask = self.settings.client_id, self.settings.client_secret
        if ask is None:
            return Form(fields | {"client_id": client})
        secret = ask()
        if "client_secret_basic" in methods or "client_secret_post" not in methods:
            pair = b64encode(f"{quote(client, safe='')}:{quote(secret, safe='')}".encode()).decode()
            return Form(fields, {"authorization": f"Basic {pair}"})
        return Form(fields | {"client_id": client, "client_secret": secret})

    async def _claims(self, metadata: _Metadata, tokens: _Tokens, nonce: str) -> Mapping[str, Any]:
        """The claims of an ID token that is for us, of this login, and holds now (OpenID Connect Core 1.0, 3.1.3.7)."""
        document = await self._get(metadata.jwks_uri)
        options: dict[str, Any] = {
            "iss": {"essential": True, "value": metadata.issuer},
            "aud": {"essential": True, "value": self.settings.client_id},
        }
        params = {"nonce": nonce, "client_id": self.settings.client_id, "access_token": tokens.access_token}
        try:
            token = jwt.decode(tokens.id_token, KeySet.import_key_set(json.loads(document)), algorithms=_ALGORITHMS)
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(now=self._clock() // 1000, leeway=_SKEW)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            reason = error.error if isinstance(error, JoseError) else "it cannot be read"
            raise LoginFailed(f"The identity provider's ID token is not good: {safe(reason, 100)[0]}.") from None
        return dict(claims)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        settings = self.settings
        user = _name(claims.get(settings.user_claim))
        if user is None:
            raise LoginFailed(f"The ID token has no {settings.user_claim}, by which approvers are known.")
        if is_unverified(claims, settings.user_claim):
            raise LoginFailed("The identity provider has not verified the address by which approvers are known.")
        said = claims.get(settings.groups_claim, [])
        names = (_name(one) for one in (said if isinstance(said, list) else [said]))
        groups = [f"oidc:group:{name}" for name in names if name is not None]
        address = _name(claims.get("email"))
        if address is not None and claims.get("email_verified") is True:
            groups.append(f"email:{address}")
        return Person(f"oidc:user:{user}", tuple(groups), settings.issuer)

    async def _get(self, url: str) -> bytes:
        try:
            return await get(url, ca=self._ca())
        except FetchFailed as error:
            raise LoginFailed(f"The identity provider does not answer: {error.reason}.") from None

    def _ca(self) -> bytes | None:
        return None if self.settings.ca is None else self.settings.ca()


def _name(value: object) -> str | None:
    """A name that can be on a list; None for everything else."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MOST_NAME else None


def _same(ours: str, theirs: str | None) -> bool:
    return hmac.compare_digest(ours.encode(), (theirs or "").encode("utf-8", "replace"))
