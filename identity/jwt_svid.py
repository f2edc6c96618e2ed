"""Callers known by a JWT-SVID (JWT-SVID specification, sections 2 to 6)."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from openmcp.identity import jose
from openmcp.identity.bearer import TokenMethod, audiences, check_times, for_policy
from openmcp.identity.principal import Principal
from openmcp.identity.refusal import Refused, Unavailable
from openmcp.identity.spiffe_id import NotASpiffeId, SpiffeId, parse_workload

ALGORITHMS: Final = jose.ALGORITHMS - {"EdDSA"}
"""Those of section 2.1."""
SKEW: Final = 30.0
"""Seconds by which clocks may differ, at the begin and the end of a token (section 5.1 leaves room for that)."""
_SCHEME: Final = "spiffe://"
_TYPES: Final = ("JWT", "JOSE")
_USES: Final = frozenset(("jwt-svid", "sig"))
_NO_KEYS: Final = jose.KeySet(())


class JwtBundles(Protocol):
    """Where the keys of trust domains come from: a JWK set for each, as the Workload API gives it.

    `jwt_generation` counts the updates: 0 before the first one.
    """

    @property
    def jwt_bundles(self) -> Mapping[str, bytes]: ...

    @property
    def jwt_generation(self) -> int: ...

    def want_jwt_bundles(self) -> None:
        """Begin to follow the bundles."""


class JwtSvids(TokenMethod):
    """`type: jwtSvid`: a JWT-SVID for our audience and no other, of one of these trust domains."""

    def __init__(
        self,
        source: JwtBundles,
        audience: str,
        trust_domains: Iterable[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self._source = source
        self._audience = audience
        self._trust_domains = frozenset(trust_domains)
        self._keys: dict[str, jose.KeySet] = {}
        self._read_at = 0
        source.want_jwt_bundles()
        jose.prepare()

    def generation(self) -> int:
        """See `TokenMethod`."""
        return self._source.jwt_generation

    def takes(self, issuer: str, subject: str) -> bool:
        """Whether the subject claims to be a SPIFFE ID."""
        return subject.startswith(_SCHEME)

    def verify(self, token: jose.Token, now: float) -> tuple[Principal, float]:
        """See `TokenMethod`. The keys are those of the subject's own trust domain, whatever key id the token names."""
        caller = self._subject(token)
        if audiences(token.claims) != [self._audience]:
            raise Refused("audience", "the token is not for this audience, and for it alone")
        until = check_times(token.claims, now, SKEW)
        _check_header(token)
        try:
            jose.verify(token, self._keys_of(caller.trust_domain), ALGORITHMS)
        except jose.UnknownKey:
            raise Refused("unknown_key", "no key of its trust domain has signed the token (kid)") from None
        # Nothing vouches for the issuer that an SVID names, by which policies tell whose claims they mean.
        claims = {name: value for name, value in token.claims.items() if name != "iss"}
        return Principal(str(caller), "jwtSvid", for_policy(claims)), until

    def _subject(self, token: jose.Token) -> SpiffeId:
        try:
            caller = parse_workload(token.claims["sub"])
        except NotASpiffeId:
            raise Refused("subject", "the subject of the token is not the SPIFFE ID of a workload") from None
        if caller.trust_domain not in self._trust_domains:
            raise Refused("trust_domain", "the trust domain of the token is not accepted")
        return caller

    def _keys_of(self, trust_domain: str) -> jose.KeySet:
        generation = self._source.jwt_generation
        if generation != self._read_at:
            self._keys, self._read_at = {}, generation
        known = self._keys.get(trust_domain)
        if known is not None:
            return known
        document = self._source.jwt_bundles.get(trust_domain)
        if document is None and generation == 0:
            raise Unavailable("no_keys", "the Workload API has not given the keys of trust domains yet")
        if document is None:
            raise Refused("trust_domain", "the Workload API gives no keys of the token's trust domain")
        try:
            keys = jose.key_set(document, _USES)
        except jose.NotAKeySet:
            keys = _NO_KEYS
        self._keys[trust_domain] = keys
        return keys


def _check_header(token: jose.Token) -> None:
    """Section 2: `typ` is JWT or JOSE if it is there. A key id is demanded, as all issuers give one."""
    if "typ" in token.header and token.header["typ"] not in _TYPES:
        raise Refused("malformed_token", "the token is of another type than JWT or JOSE (typ)")
    if token.header.get("kid") is None:
        raise Refused("malformed_token", "the token names no key (kid)")
