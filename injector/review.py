"""Pure: an AdmissionReview (admission.k8s.io/v1) in, the answer out."""

import base64
from typing import Any, Literal

import msgspec

from openmcp.config.cursor import shortened
from openmcp.injector.pod import Patch, Refused, Unchanged, inject
from openmcp.injector.settings import Settings

_API_VERSION = "admission.k8s.io/v1"
_MIRROR = "kubernetes.io/config.mirror"
_MOST = 1000
"""Characters of a refusal that the API server hands on."""
_MOST_WARNING = 240
_MOST_WARNINGS = 16
# All warnings of a request share 4096 characters in the API server, and each is cut at 256.


class NotAReview(Exception):
    """The text is no AdmissionReview of the version that we speak; its sender gets 400 and the reason."""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one pod: for the answer, the record and the metrics."""

    uid: str
    namespace: str
    name: str
    """Of the pod, or what its name will begin with (`agent-7d9c-`), or empty."""
    user: str
    outcome: Literal["injected", "unchanged", "refused"]
    reason: str
    """One line for people; of `injected` too."""
    image: str | None = None
    """Of the sidecar, where it was injected."""
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    patch: bytes = b""
    """The JSON patch (RFC 6902) of `injected`, empty otherwise."""

    def answer(self) -> bytes:
        """The AdmissionReview that goes back, as JSON."""
        response: dict[str, Any] = {
            "uid": self.uid,
            "allowed": self.outcome != "refused",
            "auditAnnotations": {"outcome": self.outcome, "reason": self.reason[:_MOST]},
        }
        if self.outcome == "refused":
            response["status"] = {"code": 403, "reason": "Forbidden", "message": self.reason[:_MOST]}
        if self.warnings:
            response["warnings"] = [f"openmcp: {text}"[:_MOST_WARNING] for text in self.warnings[:_MOST_WARNINGS]]
        if self.patch:
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(self.patch).decode()}
        return msgspec.json.encode({"apiVersion": _API_VERSION, "kind": "AdmissionReview", "response": response})


def review(body: bytes, settings: Settings) -> Admission:
    """Judge one request. Raises `NotAReview`."""
    request = _request(body)
    about: dict[str, Any] = {
        "uid": request["uid"],
        "namespace": _text(request, "namespace"),
        "name": _name(request),
        "user": _text(_mapping(request, "userInfo"), "username"),
        "dry_run": request.get("dryRun") is True,
    }
    passed = _passed(request)
    if passed is not None:
        return Admission(outcome="unchanged", reason=passed, **about)
    found = inject(request.get("object"), settings, about["namespace"])
    about["warnings"] = found.warnings
    if isinstance(found, Refused):
        return Admission(outcome="refused", reason=_line("; ".join(found.reasons)), **about)
    if isinstance(found, Unchanged):
        return Admission(outcome="unchanged", reason=found.reason, **about)
    return _injected(found, about)


def _injected(found: Patch, about: dict[str, Any]) -> Admission:
    patch = msgspec.json.encode(found.operations)
    return Admission(outcome="injected", reason=f"sidecar {found.image}", image=found.image, patch=patch, **about)


def _request(body: bytes) -> dict[str, Any]:
    try:
        read = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAReview(f"not JSON: {error}") from None
    if not isinstance(read, dict) or read.get("kind") != "AdmissionReview":
        raise NotAReview("no AdmissionReview")
    if read.get("apiVersion") != _API_VERSION:
        raise NotAReview(f"an AdmissionReview of {shortened(str(read.get('apiVersion')))}, not of {_API_VERSION}")
    request = read.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str) or not request["uid"]:
        raise NotAReview("the AdmissionReview has no request with a uid")
    return request


def _passed(request: dict[str, Any]) -> str | None:
    """Why a request is let pass unseen: it is not about the creation of a pod that a kubelet will run."""
    kind = _mapping(request, "kind")
    if (kind.get("group") or "", kind.get("version"), kind.get("kind")) != ("", "v1", "Pod"):
        return "only pods are looked at"
    if request.get("operation") != "CREATE" or request.get("subResource"):
        return "only the creation of pods is looked at"
    groups = _mapping(request, "userInfo").get("groups")
    annotations = _mapping(_mapping(request, "object"), "metadata").get("annotations")
    if isinstance(annotations, dict) and _MIRROR in annotations and "system:nodes" in (groups or ()):
        return "a mirror pod: its kubelet runs it from a file"
    return None


def _line(text: str) -> str:
    """One line for a terminal. Names in it are the developer's: the API server looks at them after we did."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _name(request: dict[str, Any]) -> str:
    metadata = _mapping(_mapping(request, "object"), "metadata")
    return _text(request, "name") or _text(metadata, "name") or _text(metadata, "generateName")


def _mapping(owner: dict[str, Any], key: str) -> dict[str, Any]:
    value = owner.get(key)
    return value if isinstance(value, dict) else {}


def _text(owner: dict[str, Any], key: str) -> str:
    value = owner.get(key)
    return value if isinstance(value, str) else ""
