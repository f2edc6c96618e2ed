"""Pure: an AdmissionReview (admission.k8s.io/v1) in, the answer out."""

from typing import Literal

import msgspec

from openmcp.injector.settings import Settings


class NotAReview(Exception):
    """The text is no AdmissionReview of the version we speak; the sender gets 400 and the reason."""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one pod, for the answer, the record and the metrics."""

    uid: str
    namespace: str
    name: str
    """Of the pod, or what its name will begin with (`agent-7d9c-`), or empty."""
    user: str
    outcome: Literal["injected", "unchanged", "refused"]
    reason: str
    """One sentence for people; of `injected` too."""
    image: str | None = None
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    patch: bytes = b""
    """The JSON patch (RFC 6902) of `injected`."""

    def answer(self) -> bytes:
        """The AdmissionReview that goes back, as JSON."""
        raise NotImplementedError


def review(body: bytes, settings: Settings) -> Admission:
    """Judge one request. Raises `NotAReview`."""
    raise NotImplementedError
