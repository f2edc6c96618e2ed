"""What the chart becomes with given values, and the values that the tests are about."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from tests.real_parts.install import program
from tests.support.parts import require

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "manifests/helm/openmcp"
NAMESPACE = "openmcp-system"
OLDEST = "1.30.0"
"""The oldest Kubernetes that the chart takes."""

VERSIONS = (OLDEST, f"{kubernetes_validate.latest_version()}")
FOREIGN = {
    "ClusterSPIFFEID": "spire.spiffe.io/v1alpha1",
    "Certificate": "cert-manager.io/v1",
    "Issuer": "cert-manager.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}
"""Kinds of other projects, whose CRDs are not here."""

Json = dict[str, Any]

DIGEST = "sha256:" + "ab" * 32
OLDER = "sha256:" + "cd" * 32
APPROVALS = {
    "enabled": True,
    "url": "https://approvals.acme.example",
    "dynamodb": {"region": "eu-central-1", "roleArn": "arn:aws:iam::123456789012:role/openmcp"},
    "oidc": {"issuer": "https://idp.acme.example/", "clientId": "openmcp", "clientSecret": {"env": "OIDC_SECRET"}},
    "tokens": [{"name": "oncall", "sha256": "0" * 64}],
    "workflows": [{"name": "leads", "approvers": ["oidc:group:leads", "token:oncall"], "channels": ["mail"]}],
    "channels": [
        {
            "name": "mail",
            "type": "email",
            "to": ["leads@acme.example"],
            "from": "openmcp@acme.example",
            "smtp": {"host": "mail.acme.example", "ca": {"file": "/etc/openmcp-secrets/mail-ca/ca.crt"}},
        }
    ],
    "secrets": ["approvals-oidc"],
    "files": ["mail-ca"],
}
MONITORED = {name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "rules", "dashboard")}
PLACED = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]}
                        ]
                    }
                ]
            }
        }
    },
    "podAnnotations": {"example.com/note": "yes"},
    "podLabels": {"team": "platform"},
    "serviceAccount": {"annotations": {"example.com/owner": "platform"}},
}

MATRIX: Mapping[str, Json] = {
    "defaults": {},
    "digest": {
        "image": {"digest": DIGEST},
        "spire": {
            "olderDigests": [OLDER],
            "className": "spire-server-spire",
            "ttl": "1h",
            "jwtTtl": "5m",
            "federatesWith": ["partner.example"],
        },
    },
    "own-registry": {
        "image": {
            "repository": "registry.acme.example:5000/team/openmcp",
            "tag": "1.2.3-rc.1",
            "pullPolicy": "Always",
            "pullSecrets": ["registry"],
        },
        "trust": {"images": ["registry.acme.example:5000/ci/*", "ghcr.io/openmcp/openmcp"]},
    },
    "cert-manager": {"injector": {"certificates": {"mode": "certManager"}}},
    "cert-manager-issuer": {
        "injector": {
            "certificates": {
                "mode": "certManager",
                "certManager": {
                    "issuerRef": {"name": "corporate", "kind": "ClusterIssuer", "group": "cert-manager.io"},
                    "duration": "24h",
                    "renewBefore": "8h",
                },
            }
        }
    },
    "files": {
        "injector": {
            "certificates": {
                "mode": "files",
                "files": {"secretName": "webhook-tls", "caBundle": "-----BEGIN CERTIFICATE-----\n"},
            }
        }
    },
    "one-replica": {"injector": {"replicas": 1, "topologySpread": False, "networkPolicy": {"enabled": False}}},
    "openshift": {"sidecar": {"runAsUser": "none", "native": False}},
    "host-path": {
        "sidecar": {"spiffe": {"volume": "host-path", "directory": "/var/run/spire"}},
        "approvals": {**APPROVALS, "dynamodb": {**APPROVALS["dynamodb"], "credentials": "spiffe"}},
    },
    "no-spiffe": {"sidecar": {"spiffe": {"volume": "none"}}, "spire": {"enabled": False}},
    "lenient": {
        "injector": {"failurePolicy": "Ignore", "timeoutSeconds": 2, "excludedNamespaces": ["istio-system"]},
        "admissionPolicy": {
            "action": "Audit",
            "allowRoot": True,
            "strictObjects": False,
            "allowOptOut": False,
        },
    },
    "no-policy": {"admissionPolicy": {"enabled": False}, "crds": {"install": False}},
    "governed": {
        "sidecar": {
            "namespaces": ["support-ai", "coding"],
            "logLevel": "debug",
            "apiServer": "10.0.0.1:6443",
            "resources": {"cpu": 0.1, "cpuLimit": 1, "memory": "64Mi", "memoryLimit": "none"},
        },
        "trust": {
            "configMaps": ["*/openmcp", "support-ai/special"],
            "dns": True,
            "capabilities": ["NET_RAW"],
            "hostPaths": ["/var/log/pods"],
            "env": ["AWS_ROLE_ARN"],
            "mounts": ["/var/run/secrets/eks.amazonaws.com/serviceaccount"],
        },
    },
    "approvals-irsa": {"approvals": APPROVALS},
    "approvals-spiffe": {
        "image": {"digest": DIGEST},
        "approvals": {
            **APPROVALS,
            "replicas": 2,
            "dynamodb": {
                **APPROVALS["dynamodb"],
                "credentials": "spiffe",
                "homeRegion": "eu-central-1",
                "endpoint": "https://vpce.example.com",
            },
        },
    },
    "approvals-from-objects": {
        "approvals": {
            **{key: value for key, value in APPROVALS.items() if key != "workflows"},
            "workflowsFrom": "support-ai",
        }
    },
    "monitored": {"monitoring": {**MONITORED, "rules": {"enabled": True, "labels": {"release": "prometheus"}}}},
    "named": {
        "fullnameOverride": "governor",
        "nameOverride": "gov",
        "namespace": {"create": True},
        "commonLabels": {"team": "security"},
        "commonAnnotations": {"example.com/contact": "security@acme.example"},
    },
    "placed": {
        "injector": {
            **PLACED,
            "priorityClassName": "system-cluster-critical",
            "podDisruptionBudget": {"minAvailable": "50%"},
            "networkPolicy": {
                "webhookFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            },
        },
        "approvals": {**APPROVALS, **PLACED, "networkPolicy": {"from": [{"namespaceSelector": {}}]}},
        "monitoring": MONITORED,
    },
}


def helm(*arguments: str, values: Json | None = None) -> subprocess.CompletedProcess[str]:
    """Run the pinned helm, with values on its standard input where there are any."""
    require("kubernetes")
    files = [] if values is None else ["--values", "-"]
    command = [str(program("kubernetes", "helm")), *arguments, *files]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


@functools.cache
def _template(values: str, namespace: str, release: str) -> list[Json]:
    done = helm(
        "template", release, str(CHART), "--namespace", namespace, "--kube-version", OLDEST, values=json.loads(values)
    )
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def template(values: Json, namespace: str = NAMESPACE, release: str = "openmcp") -> list[Json]:
    """The objects that the chart becomes."""
    return json.loads(json.dumps(_template(json.dumps(values), namespace, release)))


def of(case: str) -> list[Json]:
    """The objects of a case of the matrix."""
    return template(MATRIX[case])


def one(documents: list[Json], kind: str, name: str | None = None) -> Json:
    """The only object of a kind, or the one of a name."""
    (found,) = (each for each in documents if each["kind"] == kind and name in (None, each["metadata"]["name"]))
    return found


def kinds(documents: list[Json], kind: str) -> list[Json]:
    """All objects of a kind."""
    return [each for each in documents if each["kind"] == kind]
