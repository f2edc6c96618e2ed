"""What a plan for Envoy Gateway refers to and does not contain: secrets, bundles, the Service of the sidecars."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import trustme

Json = Mapping[str, Any]
KEY = "key-of-the-test"


def furnish(documents: Iterable[Json], authority: trustme.CA) -> list[Json]:
    """Return what the documents name: certificates are of `authority`, all keys of callers are `<name>-KEY`."""
    documents = list(documents)
    made: dict[tuple[str, str, str], Json] = {}
    for document in documents:
        namespace = document["metadata"].get("namespace", "")
        for one in _named(document, namespace, authority):
            made[one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one
    return list(made.values())


def _named(document: Json, namespace: str, authority: trustme.CA) -> Iterator[Json]:
    spec, kind = document["spec"], document["kind"]
    if kind == "Gateway":
        leaf = authority.issue_cert("mcp.acme.example", "localhost")
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        pem = {"tls.crt": chain, "tls.key": leaf.private_key_pem.bytes()}
        for reference in spec["listeners"][0]["tls"]["certificateRefs"]:
            yield _secret(reference["name"], namespace, pem) | {"type": "kubernetes.io/tls"}
    if kind == "HTTPRouteFilter" and "credentialInjection" in spec:
        reference = spec["credentialInjection"]["credential"]["valueRef"]
        yield _secret(reference["name"], namespace, {"credential": b"secret-of-ours"})
    if kind == "HTTPRoute":
        for reference in spec["rules"][0]["backendRefs"]:
            yield from _service(reference) if reference["kind"] == "Service" else ()
    if kind == "SecurityPolicy":
        yield from _of_callers(spec, namespace)
    validation = spec.get("validation") or spec.get("tls", {}).get("clientValidation", {})
    for reference in validation.get("caCertificateRefs", ()):
        yield _config_map(reference["name"], namespace, {"ca.crt": authority.cert_pem.bytes().decode()})


def _of_callers(spec: Json, namespace: str) -> Iterator[Json]:
    for rule in spec["authorization"].get("rules", ()):
        for match in rule.get("principal", {}).get("headers", ()):
            keys = {name: f"{name}-{KEY}".encode() for name in match["values"]}
            yield _secret(spec["apiKeyAuth"]["credentialRefs"][0]["name"], namespace, keys)
    for provider in spec.get("jwt", {}).get("providers", ()):
        if "localJWKS" in provider:
            yield _config_map(provider["localJWKS"]["valueRef"]["name"], namespace, {"jwks": '{"keys": []}'})


def _secret(name: str, namespace: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    coded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": coded}


def _config_map(name: str, namespace: str, data: Mapping[str, str]) -> Json:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _service(reference: Json) -> Iterator[Json]:
    metadata = {"name": reference["name"], "namespace": reference["namespace"]}
    ports = [{"name": "mcp", "port": reference["port"], "protocol": "TCP"}]
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": "10.9.8.7", "ports": ports},
    }
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "labels": {"kubernetes.io/service-name": reference["name"]}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.1.1"], "conditions": {"ready": True}}],
        "ports": ports,
    }
