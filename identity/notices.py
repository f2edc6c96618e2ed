"""What the log says about our identity: each thing once, when it changes."""

import logging
from collections.abc import Callable, Mapping
from typing import Final

from openmcp.identity.material import CallFailed, FailureKind, Svid

LATE: Final = 0.25
"""Of an SVID's lifetime: with less of it left, its successor is late. Agents renew at half of it."""
_ERROR_KINDS: Final = ("malformed", "refused")
_TEXTS: Final[Mapping[FailureKind, str]] = {
    "denied": "no registration entry fits this process; create one, with the selectors of this process",
    "unreachable": "the Workload API cannot be reached at {address}; is the agent running, and may we open the socket?",
    "malformed": "the Workload API sent something that is not good",
    "refused": "the Workload API refused",
}
_log = logging.getLogger("openmcp.identity")


def explained(failed: CallFailed, address: str) -> str:
    """A failure in a sentence, with what to do about it."""
    return f"{_TEXTS[failed.kind].format(address=address)} ({failed.detail})"


class Notices:
    """Remembers what was said."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._broken: dict[str, FailureKind] = {}
        self._bad: dict[str, frozenset[str]] = {}
        self._none = False
        self._late: Svid | None = None
        self._expired: Svid | None = None

    def broken(self, stream: str, failed: CallFailed) -> None:
        """A stream broke or could not be opened. What hinders two streams alike is said once."""
        known = failed.kind in self._broken.values()
        self._broken[stream] = failed.kind
        if not known:
            level = logging.ERROR if failed.kind in _ERROR_KINDS else logging.WARNING
            _log.log(level, "%s", explained(failed, self._address), extra={"stream": stream})

    def works(self, stream: str) -> None:
        """A stream brought something good."""
        if self._broken.pop(stream, None) is not None and not self._broken:
            _log.info("%s brings updates again", self._address)

    def bad_bundles(self, stream: str, bad: Mapping[str, str]) -> None:
        """These bundles were left out of an update."""
        names = frozenset(bad)
        for name in sorted(names - self._bad.get(stream, frozenset())):
            _log.warning("a bundle is left out, its trust domain is not trusted: %s", bad[name], extra={"bundle": name})
        self._bad[stream] = names

    def own(self, before: Svid | None, now: Svid | None, why_none: Callable[[], str]) -> None:
        """Our SVID is another one now."""
        if now is None:
            if not self._none:
                _log.error("we have no SVID: %s", why_none())
        elif before is None or before.id != now.id:
            _log.info("our SVID is %s", now.id)
        elif now != before:
            _log.debug("our SVID was renewed")
        self._none = now is None

    def clock(self, own: Svid | None, now: float) -> bool:
        """Warn of an SVID that ends soon, and say that it ended. Whether a successor is late."""
        if own is None or own.expires - now >= LATE * (own.expires - own.begins):
            return False
        if now >= own.expires:
            if self._expired is not own:
                self._expired = self._late = own
                _log.error(
                    "our SVID has expired: no connection is made with it and nobody is sent it", extra=_told(own)
                )
        elif self._late is not own:
            self._late = own
            _log.warning("our SVID ends in %.0f seconds and was not renewed", own.expires - now, extra=_told(own))
        return True


def _told(own: Svid) -> dict[str, object]:
    return {"spiffe_id": str(own.id), "expires": own.expires}
