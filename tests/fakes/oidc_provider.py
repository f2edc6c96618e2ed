"""An identity provider on this machine, over TLS: Authlib's authorization server, with PKCE demanded.

It signs ID tokens and asks nobody for a password: whoever presses its button is `claims`. Tests change
`claims`, `token` (claims of the ID token), `sign` and `metadata` to make it one that is broken or hostile.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import flask
import trustme
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import AuthorizationCodeMixin, UserInfo
from authlib.oidc.core.grants import OpenIDCode
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

CLIENT = "openmcp"
SECRET = "a secret: 50%25 of/it"  # has to be encoded in HTTP Basic (RFC 6749, 2.3.1)


class Provider:
    """A provider that runs in a thread; `issuer` is where. `client_redirect` is where people go back to."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.ca = authority.cert_pem.bytes()
        self.claims: dict[str, Any] = {"sub": "ann", "groups": ["leads", "staff"]}
        self.token: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
        self.client_redirect = ""
        self.auth_methods: list[str] = []
        self.shared: OctKey | None = None
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})
        self._codes: dict[str, _Code] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self._server = make_server(
            "127.0.0.1", 0, self._app(), threaded=True, request_handler=_Quiet, ssl_context=context
        )
        self.issuer = f"https://localhost:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def signed(self, header: dict[str, Any], claims: dict[str, Any], key: Any = None) -> str:
        """An ID token, by the provider's key or another one."""
        return jwt.encode(header, claims, key or self.key, [header["alg"]])

    def confused(self, _: dict[str, Any], claims: dict[str, Any]) -> str:
        """One that takes the public key for a shared secret."""
        signed = _compact({"alg": "HS256", "kid": "k1"}, claims)
        mac = hmac.digest(self.key.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    def symmetric(self, _: dict[str, Any], claims: dict[str, Any]) -> str:
        """One signed with a shared secret that stands among the provider's public keys."""
        assert self.shared is not None
        return jwt.encode({"alg": "HS256", "kid": "shared"}, claims, self.shared, ["HS256"])

    @staticmethod
    def unsigned(_: dict[str, Any], claims: dict[str, Any]) -> str:
        """One of the algorithm `none`."""
        return _compact({"alg": "none"}, claims) + "."

    def _app(self) -> flask.Flask:
        app = flask.Flask("provider")
        app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"authorization_code": 600}
        server = AuthorizationServer(app, lambda name: _Client(self) if name == CLIENT else None, lambda *_: None)
        server.register_grant(_grant(self._codes, self), [_code_extension(self), CodeChallenge(required=True)])

        @app.get("/.well-known/openid-configuration")
        def configuration() -> Any:
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                **self.metadata,
            }

        @app.get("/keys")
        def keys() -> Any:
            published = KeySet([self.key]).as_dict(private=False)
            return {"keys": [*published["keys"], *([self.shared.as_dict()] if self.shared else [])]}

        @app.get("/authorize")
        def ask() -> Any:
            server.get_consent_grant(end_user=self.claims)
            return '<!doctype html><title>Provider</title><form method="post"><button>Log in</button></form>'

        @app.post("/authorize")
        def answer() -> Any:
            grant = server.get_consent_grant(end_user=self.claims)
            return server.create_authorization_response(grant=grant, grant_user=self.claims)

        @app.post("/token")
        def token() -> Any:
            return server.create_token_response()

        return app


def _compact(*parts: dict[str, Any]) -> str:
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


class _Client(ClientMixin):
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def get_client_id(self) -> str:
        return CLIENT

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self._provider.client_redirect

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        self._provider.auth_methods.append(method)
        return True

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class _Code(AuthorizationCodeMixin):
    def __init__(self, user: dict[str, Any], payload: Any) -> None:
        self.user = user
        self.redirect_uri, self.scope = payload.redirect_uri, payload.scope
        self.nonce = payload.data.get("nonce")
        self.code_challenge = payload.data.get("code_challenge")
        self.code_challenge_method = payload.data.get("code_challenge_method")

    def get_redirect_uri(self) -> Any:
        return self.redirect_uri

    def get_scope(self) -> Any:
        return self.scope

    def get_nonce(self) -> Any:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())


def _grant(codes: dict[str, _Code], provider: Provider) -> type:
    class Grant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]

        def save_authorization_code(self, code: str, request: Any) -> None:
            codes[code] = _Code(request.user, request.payload)

        def query_authorization_code(self, code: str, client: Any) -> _Code | None:
            return codes.get(code)

        def delete_authorization_code(self, authorization_code: _Code) -> None:
            for name in [name for name, one in codes.items() if one is authorization_code]:
                del codes[name]

        def authenticate_user(self, authorization_code: _Code) -> Any:
            return authorization_code.user

    return Grant


def _code_extension(provider: Provider) -> Any:
    class Extension(OpenIDCode):
        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return False

        def resolve_client_private_key(self, client: Any) -> Any:
            return provider.key

        def get_client_claims(self, client: Any) -> dict[str, Any]:
            return {"iss": provider.issuer, "aud": [CLIENT], "jti": secrets.token_hex(8)}

        def get_encode_header(self, client: Any) -> dict[str, str]:
            return {"alg": "RS256", "kid": "k1"}

        def generate_user_info(self, user: dict[str, Any], scope: str) -> Any:
            return UserInfo(**user)

        def encode_id_token(self, token: Any, request: Any) -> str:
            if not provider.token and provider.sign is None:
                return str(super().encode_id_token(token, request))
            read = jwt.decode(super().encode_id_token(token, request), provider.key)
            claims = {name: value for name, value in (read.claims | provider.token).items() if value is not None}
            return (provider.sign or provider.signed)(self.get_encode_header(None), claims)

    return Extension(require_nonce=True)
