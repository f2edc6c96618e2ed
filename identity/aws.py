"""AWS without keys: STS gives credentials of a role for our JWT-SVID (AssumeRoleWithWebIdentity).

The account has an OIDC provider for SPIRE's discovery document, with the audience `sts.amazonaws.com`, and the role
trusts our SPIFFE ID as the subject. What talks to AWS uses `session`; as long as no store in AWS is configured, nothing
does. Needs the extra `aws`; botocore is imported when the session is made.
"""

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from openmcp.identity.material import NoIdentity, Svid

if TYPE_CHECKING:
    from botocore.session import Session

AUDIENCE: Final = "sts.amazonaws.com"
DURATION: Final = 3600
"""Seconds that credentials last. The shortest that STS gives (900) lie in the window in which botocore renews them with
every use."""
PATIENCE: Final = 10.0
"""Seconds to wait for our JWT-SVID."""
_TIMEOUTS: Final = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 3}}
_METHOD: Final = "spiffe"


class Svids(Protocol):
    """What is used of `SvidSource`."""

    def own(self) -> Svid:
        """Our SVID. Raises `NoIdentity`."""

    async def jwt_svid(self, audience: str) -> str:
        """Our JWT-SVID. Raises `NoIdentity`."""


def session(source: Svids, role_arn: str, region: str, sts_endpoint: str | None = None) -> "Session":
    """A botocore session whose clients act in this role; its credentials come with their first use and are renewed.

    To be called in the event loop of `source`. Whatever uses its clients belongs in threads: they block, also while
    they fetch credentials, and raise `CredentialRetrievalError` where there are none. `sts_endpoint` is a URL in the
    place of the region's own. Raises ImportError, with the remedy, where botocore is not installed.
    """
    try:
        from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
        from botocore.session import Session
    except ImportError as error:
        raise ImportError(f"AWS needs the extra: pip install 'openmcp[aws]' ({error})") from error

    made = Session()
    made.set_config_variable("region", region)
    role = _Role(source, role_arn, made, sts_endpoint)

    class Provider(CredentialProvider):  # type: ignore[misc]  # botocore has no types
        METHOD = CANONICAL_NAME = _METHOD

        def load(self) -> Any:
            return DeferredRefreshableCredentials(role.credentials, _METHOD)

    # The only one: neither keys of the environment nor of a file nor of the machine take its place.
    made.register_component("credential_provider", CredentialResolver([Provider()]))
    return made


class _Role:
    """A role and how its credentials are had."""

    def __init__(self, source: Svids, role_arn: str, session: "Session", sts_endpoint: str | None) -> None:
        self._source = source
        self._role_arn = role_arn
        self._session = session
        self._sts_endpoint = sts_endpoint
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def credentials(self) -> dict[str, Any]:
        """New credentials as botocore wants them. Blocks. Raises its `CredentialRetrievalError`."""
        from botocore.credentials import AssumeRoleWithWebIdentityCredentialFetcher
        from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError

        try:
            extra = {"RoleSessionName": session_name(str(self._source.own().id)), "DurationSeconds": DURATION}
            fetcher = AssumeRoleWithWebIdentityCredentialFetcher(
                self._client, self._token, self._role_arn, extra_args=extra
            )
            return dict(fetcher.fetch_credentials())
        except NoIdentity as error:
            why = str(error)
        except ClientError as error:
            said = error.response.get("Error", {})
            why = f"STS refused {self._role_arn}: {said.get('Code')}: {str(said.get('Message'))[:300]}"
        except BotoCoreError as error:
            why = f"STS cannot be used: {error}"
        raise CredentialRetrievalError(provider=_METHOD, error_msg=why)

    def _client(self, service: str, config: Any) -> Any:
        from botocore.config import Config

        merged = config.merge(Config(**_TIMEOUTS))
        return self._session.create_client(service, endpoint_url=self._sts_endpoint, config=merged)

    def _token(self) -> str:
        """Our JWT-SVID, which is had in the loop, for a thread."""
        if threading.get_ident() == self._thread:
            raise RuntimeError("AWS is used from a thread, not in the event loop, which would wait for itself")
        asking = asyncio.run_coroutine_threadsafe(self._source.jwt_svid(AUDIENCE), self._loop)
        try:
            return asking.result(PATIENCE)
        except TimeoutError:
            asking.cancel()
            raise NoIdentity(f"the Workload API gave no JWT-SVID in {PATIENCE:g} s") from None


def session_name(spiffe_id: str) -> str:
    """The RoleSessionName of a SPIFFE ID, the same each time: an ID has characters that STS does not take."""
    return f"openmcp-{hashlib.sha256(spiffe_id.encode()).hexdigest()[:40]}"
