"""The settings of the injector: what may be written, and what is said where it may not."""

from pathlib import Path

import pytest

from openmcp.config import ConfigurationError
from openmcp.config.model import Address
from openmcp.injector.settings import (
    BuiltInTls,
    FilesTls,
    Resources,
    Settings,
    Sidecar,
    Spiffe,
    Trust,
    in_cluster,
    load,
    parse,
)
from tests.injector.pods import IMAGE, SETTINGS, settings

ROOT = Path(__file__).resolve().parents[2]
FULL = """
sidecar:
  image: "registry.example/openmcp:1.4"
  imagePullPolicy: Always
  native: false
  runAsUser: none
  logLevel: debug
  port: 15011
  admin: "[::]:15021"
  resources: {cpu: 0.5, cpuLimit: 2, memory: 64Mi, memoryLimit: none}
  spiffe: {volume: host-path, driver: x.example, directory: /run/x, socket: agent.sock}
  apiServer: 10.96.0.1:443
trust:
  images: [registry.example/team/*]
  configMaps: ["*/gateway"]
  dns: true
  hostPaths: [/mnt/models]
  capabilities: [NET_ADMIN]
  env: [AWS_ROLE_ARN]
  mounts: [/var/run/secrets/x]
listen: 127.0.0.1:9443
admin: 127.0.0.1:0
logLevel: warning
namespace: mesh
excludedNamespaces: [build]
statusLease: status
tls: {type: builtIn, secret: a, lease: b, webhook: d, lifetime: 24h}
"""


def test_one_key_is_enough():
    assert (
        parse("sidecar: {image: 'registry.example/openmcp:1.4'}") == Settings(sidecar=Sidecar(image=IMAGE)) == SETTINGS
    )


def test_all_keys():
    assert parse(FULL) == Settings(
        sidecar=Sidecar(
            image=IMAGE,
            image_pull_policy="Always",
            native=False,
            run_as_user=None,
            log_level="debug",
            port=15011,
            admin=Address(host="::", port=15021),
            resources=Resources(cpu="0.5", cpu_limit="2", memory="64Mi", memory_limit=None),
            spiffe=Spiffe(volume="host-path", driver="x.example", directory="/run/x", socket="agent.sock"),
            api_server=Address(host="10.96.0.1", port=443),
        ),
        trust=Trust(
            images=("registry.example/team/*",),
            config_maps=("*/gateway",),
            dns=True,
            host_paths=("/mnt/models",),
            capabilities=("NET_ADMIN",),
            env=("AWS_ROLE_ARN",),
            mounts=("/var/run/secrets/x",),
        ),
        listen=Address(host="127.0.0.1", port=9443),
        admin=Address(host="127.0.0.1", port=0),
        log_level="warning",
        namespace="mesh",
        excluded_namespaces=("build",),
        status_lease="status",
        tls=BuiltInTls(secret="a", lease="b", webhook="d", lifetime=86400.0),
    )


def test_files_are_beside_the_settings(tmp_path):
    file = tmp_path / "injector.yaml"
    file.write_text("sidecar: {image: a/b}\ntls: {type: files, certificate: tls.crt, key: /k/tls.key}\n")
    assert load(file).tls == FilesTls(certificate=str(tmp_path / "tls.crt"), key="/k/tls.key")


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("", "injector.yaml: one YAML document is wanted (it begins with `sidecar: {image: ...}`)"),
        ("a: 1\n---\nb: 2", "injector.yaml: one YAML document is wanted (it begins with `sidecar: {image: ...}`)"),
        ("listen: 127.0.0.1:1", "injector.yaml:1: `sidecar` is required"),
        ("sidecar: {}", "injector.yaml:1: sidecar: `image` is required"),
        (
            "sidecar: {image: 'a b'}",
            'injector.yaml:1: sidecar.image: not an image: "a b" (REGISTRY/PATH:TAG or ...@sha256:DIGEST)',
        ),
        (
            "sidecar: {image: a/b, runAsUser: 0}",
            "injector.yaml:1: sidecar.runAsUser: must be between 1 and 2147483647, found 0",
        ),
        (
            "sidecar: {image: a/b, spiffe: {socket: ../x}}",
            'injector.yaml:1: sidecar.spiffe.socket: not a file name: "../x" (without a folder)',
        ),
        (
            "sidecar: {image: a/b, spiffe: {directory: /run/../x}}",
            'injector.yaml:1: sidecar.spiffe.directory: not a folder: "/run/../x" '
            "(an absolute path that is written in one way only, such as /run/spire)",
        ),
        (
            "sidecar: {image: a/b}\ntrust: {configMaps: [gateway]}",
            'injector.yaml:2: trust.configMaps[0]: not a ConfigMap: "gateway" '
            "(NAMESPACE/NAME, or */NAME for every namespace)",
        ),
        (
            "sidecar: {image: a/b}\ntrust: {images: ['a/b:1']}",
            'injector.yaml:2: trust.images[0]: not a repository: "a/b:1" '
            "(REGISTRY/PATH without a tag, or REGISTRY/PATH/*)",
        ),
        (
            "sidecar: {image: a/b}\ntrust: {hostPaths: [/]}",
            'injector.yaml:2: trust.hostPaths[0]: not a folder: "/" '
            "(an absolute path that is written in one way only, such as /run/spire)",
        ),
        (
            "sidecar: {image: a/b, apiServer: api.example}",
            'injector.yaml:1: sidecar.apiServer: not an address to connect to: "api.example" '
            "(write host:port, such as 10.96.0.1:443)",
        ),
        (
            "sidecar: {image: a/b, apiServer: 'api.example:0'}",
            'injector.yaml:1: sidecar.apiServer: not an address to connect to: "api.example:0" '
            "(the port is a number from 1 to 65535)",
        ),
        (
            "sidecar: {image: a/b, apiServer: 'https://api.example:443'}",
            'injector.yaml:1: sidecar.apiServer: not an address to connect to: "https://api.example:443" '
            "(write host:port, such as 10.96.0.1:443)",
        ),
        (
            "sidecar: {image: a/b, resources: {memory: 1Gi}}",
            "injector.yaml:1: sidecar.resources: memory, 1Gi, is more than memoryLimit, 256Mi "
            '(raise memoryLimit, or write "none")',
        ),
        (
            "sidecar: {image: a/b, resources: {cpu: 1, cpuLimit: 999m}}",
            'injector.yaml:1: sidecar.resources: cpu, 1, is more than cpuLimit, 999m (raise cpuLimit, or write "none")',
        ),
        (
            "sidecar: {image: a/b, resources: {cpu: lots}}",
            'injector.yaml:1: sidecar.resources.cpu: not a quantity: "lots" (such as 100m, 0.5 or 128Mi)',
        ),
        (
            "sidecar: {image: a/b}\ntls: {type: files}",
            "injector.yaml:2: tls: `certificate` is required\ninjector.yaml:2: tls: `key` is required",
        ),
        (
            "sidecar: {image: a/b}\ntls: {type: builtIn, lifetime: 59s}",
            "injector.yaml:2: tls.lifetime: between a minute and ten years, found 59s",
        ),
        (
            "sidecar: {image: a/b}\ntls: {type: builtIn, lifetime: 99999h}",
            "injector.yaml:2: tls.lifetime: between a minute and ten years, found 99999h",
        ),
    ],
)
def test_what_is_refused(text, errors):
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert str(caught.value) == errors


def test_the_documentation_shows_what_holds_without_it():
    page = (ROOT / "docs" / "injection.md").read_text(encoding="utf-8")
    (shown,) = [block for block in page.split("```yaml\n")[1:] if block.startswith("sidecar:")]
    text = shown.partition("```")[0].replace("registry.example/openmcp@sha256:...", "registry.example/openmcp:1.4")
    assert parse(text) == SETTINGS


def test_the_address_of_the_api_server_is_handed_on():
    told = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert in_cluster(SETTINGS, told) == settings("apiServer: '10.96.0.1:6443'")
    assert in_cluster(SETTINGS, {}) == SETTINGS
    own = settings("apiServer: 'api.example:443'")
    assert in_cluster(own, told) == own


def test_which_namespaces_are_left_alone():
    by = settings(namespace="mesh", excludedNamespaces="[build]")
    assert [name for name in ("kube-system", "mesh", "build", "support-ai", "kube-systemx") if by.excludes(name)] == [
        "kube-system",
        "mesh",
        "build",
    ]


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "injector.yaml")
    hint = "say which by -c; the ConfigMap openmcp-injector of a cluster holds it"
    assert str(caught.value) == f"{tmp_path}/injector.yaml: no such file ({hint})"
