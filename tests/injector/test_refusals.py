"""What an agent's developer may try by way of the pod, and why it is refused."""

import copy

import pytest

from openmcp.injector.pod import Patch, Unchanged, inject
from tests.injector.pods import AGENT, SETTINGS, patched, pod, refused, settings, sidecar_of

AWS = settings(trust="{env: [AWS_ROLE_ARN], mounts: [/var/run/secrets/eks.amazonaws.com/serviceaccount]}")


def agent(**fields):
    return {**AGENT, **fields}


def secured(**fields):
    return agent(securityContext=fields)


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        (pod(hostPID=True), ["hostPID: its processes see those of every sidecar on the node; remove it"]),
        (pod(hostIPC=True), ["hostIPC: its processes share memory with those of the node; remove it"]),
        (pod(os={"name": "windows"}), ["os: the sidecar runs on Linux"]),
        (
            pod(hostAliases=[{"ip": "10.0.0.9", "hostnames": ["zendesk.tools.svc"]}]),
            ["hostAliases: they would say where the sidecar finds its servers; an operator may allow it by trust.dns"],
        ),
        (
            pod(hostname="agent", hostnameOverride="zendesk.tools.svc"),
            [
                "hostnameOverride: the sidecar would find a server of that name in the pod itself; "
                "an operator may allow it by trust.dns"
            ],
        ),
        (
            pod(meta={"name": "zendesk.tools.svc"}),
            [
                "metadata.name: it is the hostname too, and the sidecar would find a server of that name in the pod "
                "itself; write it without dots, or a hostname; an operator may allow it by trust.dns"
            ],
        ),
        (pod(secured(privileged=True)), ["container agent: privileged: it is not kept from the sidecar; remove it"]),
        (
            pod(secured(capabilities={"add": ["NET_ADMIN", "CAP_SYS_PTRACE", "CHOWN"]})),
            [
                "container agent: capability NET_ADMIN reaches beyond the container; "
                "an operator may allow it by trust.capabilities",
                "container agent: capability SYS_PTRACE reaches beyond the container; "
                "an operator may allow it by trust.capabilities",
            ],
        ),
        (pod(secured(runAsUser=65532)), ["container agent: runAsUser 65532 is the sidecar's; choose another"]),
        (
            pod(securityContext={"runAsUser": 65532}),
            ["container agent: runAsUser 65532 is the sidecar's; choose another"],
        ),
        (
            pod(agent(volumeMounts=[{"name": "openmcp-workload-api", "mountPath": "/spiffe"}])),
            ["container agent: mounts openmcp-workload-api, which is the sidecar's alone"],
        ),
        (
            pod(initContainers=[{"name": "early", "volumeMounts": [{"name": "openmcp-token", "mountPath": "/t"}]}]),
            ["container early: mounts openmcp-token, which is the sidecar's alone"],
        ),
        (
            pod(volumes=[{"name": "mine", "csi": {"driver": "csi.spiffe.io", "readOnly": True}}]),
            ["volume mine: the Workload API (csi.spiffe.io) is the sidecar's alone"],
        ),
        (
            pod(agent(ports=[{"containerPort": 15001}])),
            ["container agent: port 15001 is the sidecar's; the containers of a pod share their ports"],
        ),
        (
            pod(agent(ports=[{"containerPort": 15020, "protocol": "TCP"}])),
            ["container agent: port 15020 is the sidecar's; the containers of a pod share their ports"],
        ),
        (
            pod(meta={"annotations": {"container.apparmor.security.beta.kubernetes.io/openmcp": "unconfined"}}),
            [
                "annotation container.apparmor.security.beta.kubernetes.io/openmcp: "
                "the sidecar's confinement is not the pod's to say"
            ],
        ),
    ],
)
def test_the_wall_between_agent_and_sidecar_stays(given, reasons):
    assert refused(given) == reasons


@pytest.mark.parametrize(
    "dns",
    [
        {"dnsPolicy": "None"},
        {"dnsConfig": {"nameservers": ["10.0.0.9"]}},
        {"dnsConfig": {"searches": ["evil.example"]}},
    ],
)
def test_where_the_sidecar_finds_its_servers_is_not_the_pods_to_say(dns):
    (reason,) = refused(pod(**dns))
    assert reason.startswith("dnsConfig: its servers or search domains would say")
    assert isinstance(inject(pod(**dns), settings(trust="{dns: true}"), "n"), Patch)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/run",
        "/run/spire/agent-sockets",
        "/var/run/spire",
        "/proc",
        "/var/lib/kubelet/pods",
        "/mnt/models/../../run",
        "/mnt/models2",
        "",
        None,
    ],
)
def test_folders_of_the_node_lead_to_the_socket(path):
    by = settings(trust="{hostPaths: [/mnt/models]}")
    given = pod(volumes=[{"name": "node", "hostPath": {"path": path}}])
    (reason,) = refused(given, by)
    assert "may lead to the sidecar's identity" in reason


@pytest.mark.parametrize("path", ["/mnt/models", "/mnt/models/small"])
def test_a_folder_that_the_operator_allows(path):
    by = settings(trust="{hostPaths: [/mnt/models]}")
    assert isinstance(inject(pod(volumes=[{"name": "m", "hostPath": {"path": path}}]), by, "n"), Patch)


@pytest.mark.parametrize(
    "given",
    [
        pod(secured(runAsUser=1000), securityContext={"runAsUser": 65532}),
        pod(secured(runAsUser=0)),
        pod(secured(capabilities={"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]})),
        pod(agent(ports=[{"containerPort": 15001, "protocol": "UDP"}])),
        pod(dnsConfig={"options": [{"name": "ndots", "value": "2"}]}, dnsPolicy="ClusterFirst"),
        pod(volumes=[{"name": "s", "csi": {"driver": "secrets-store.csi.k8s.io"}}, {"name": "e", "emptyDir": {}}]),
        pod(meta={"annotations": {"container.apparmor.security.beta.kubernetes.io/agent": "unconfined"}}),
        pod(hostNetwork=False, shareProcessNamespace=None, hostPID=False, os={"name": "linux"}),
    ],
)
def test_what_does_no_harm_is_let_be(given):
    assert isinstance(inject(given, SETTINGS, "support-ai"), Patch)


def test_a_capability_that_the_operator_allows():
    given = pod(initContainers=[{"name": "mesh-init", "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}])
    assert isinstance(inject(given, settings(trust="{capabilities: [NET_ADMIN]}"), "n"), Patch)


def test_without_a_user_of_its_own_the_sidecar_cannot_be_told_from_others():
    assert isinstance(inject(pod(secured(runAsUser=65532)), settings("runAsUser: none"), "n"), Patch)


def test_another_driver_is_another_workload_api():
    by = settings("spiffe: {driver: spiffe.example.com}")
    volume = {"name": "mine", "csi": {"driver": "spiffe.example.com"}}
    assert refused(pod(volumes=[volume]), by) == [
        "volume mine: the Workload API (spiffe.example.com) is the sidecar's alone"
    ]


def forged(change):
    """A pod as the injector would make it, but for what `change` does to the container of the sidecar."""
    made = patched(pod())
    change(sidecar_of(made))
    return made


def adding(key, value):
    return lambda container: container[key].append(value)


def setting(key, value):
    return lambda container: container.__setitem__(key, value)


def security(**fields):
    return lambda container: container["securityContext"].update(fields)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            setting("image", "evil.example/openmcp:1"),
            'image is "evil.example/openmcp:1", not "registry.example/openmcp:1.4"',
        ),
        (setting("command", ["sh"]), "command is set"),
        (setting("args", ["run", "-c", "/tmp/mine.yaml"]), "args differs"),
        (setting("workingDir", "/mine"), "workingDir is set"),
        (setting("envFrom", [{"configMapRef": {"name": "mine"}}]), "envFrom is set"),
        (setting("lifecycle", {"postStart": {"exec": {"command": ["sh"]}}}), "lifecycle is set"),
        (setting("livenessProbe", {"exec": {"command": ["sh"]}}), "livenessProbe differs"),
        (setting("restartPolicy", None), "restartPolicy differs"),
        (setting("tty", True), "tty is set"),
        (setting("volumeDevices", [{"name": "v", "devicePath": "/dev/x"}]), "volumeDevices is set"),
        (setting("resources", {"claims": [{"name": "gpu"}]}), "resources has claims"),
        (setting("securityContext", None), "securityContext.allowPrivilegeEscalation differs"),
        (security(runAsUser=0), "securityContext.runAsUser differs"),
        (security(procMount="Unmasked"), "securityContext.procMount is set"),
        (security(seLinuxOptions={"type": "spc_t"}), "securityContext.seLinuxOptions is set"),
        (security(appArmorProfile={"type": "Unconfined"}), "securityContext.appArmorProfile is set"),
        (security(capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}), "securityContext.capabilities differs"),
        (adding("env", {"name": "PYTHONPATH", "value": "/mine"}), "env: PYTHONPATH was added"),
        (adding("env", {"name": "LD_PRELOAD", "value": "/mine"}), "env: LD_PRELOAD was added"),
        (adding("env", {"name": "AWS_ROLE_ARN", "value": "mine"}), "env: AWS_ROLE_ARN was added"),
        (
            adding("env", {"name": "SPIFFE_ENDPOINT_SOCKET", "value": "unix:///mine"}),
            "env: SPIFFE_ENDPOINT_SOCKET differs",
        ),
        (lambda container: container["env"].pop(), "env: SPIFFE_ENDPOINT_SOCKET differs"),
        (adding("volumeMounts", {"name": "mine", "mountPath": "/etc/openmcp"}), "volumeMounts: /etc/openmcp was added"),
        (
            lambda container: container["volumeMounts"][1].update(name="mine"),
            "volumeMounts: /run/spire/agent-sockets differs",
        ),
        (
            lambda container: container["volumeMounts"][0].update(subPath="x"),
            "volumeMounts: /var/run/secrets/kubernetes.io/serviceaccount differs",
        ),
    ],
)
def test_a_container_of_our_name_has_to_be_ours(change, difference):
    reasons = refused(forged(change))
    assert f"the container named openmcp is not what the injector puts in: {difference}" in reasons


@pytest.mark.parametrize(
    "change",
    [
        setting("resources", {"limits": {"cpu": "2"}, "requests": {"cpu": "50m", "memory": "128Mi"}}),
        setting("resources", None),
        setting("resizePolicy", [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
        setting("tty", False),
        setting("envFrom", []),
        security(procMount="Default"),
        lambda container: container["env"].reverse(),
    ],
)
def test_what_the_api_server_may_make_of_it_is_still_ours(change):
    assert inject(forged(change), SETTINGS, "support-ai") == Unchanged(reason="the sidecar is there already")


def test_what_another_webhook_may_add_where_the_operator_allows_it():
    made = patched(pod(), AWS)
    sidecar_of(made)["env"].append({"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::1:role/x"})
    path = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
    sidecar_of(made)["volumeMounts"].append({"name": "aws-iam-token", "mountPath": path, "readOnly": True})
    assert isinstance(inject(made, AWS, "n"), Unchanged)
    sidecar_of(made)["env"].append({"name": "AWS_ENDPOINT_URL", "value": "https://mine.example"})
    assert refused(made, AWS) == [
        "the container named openmcp is not what the injector puts in: env: AWS_ENDPOINT_URL was added"
    ]


def test_a_container_of_our_name_among_the_others():
    assert refused(pod(AGENT, {"name": "openmcp", "image": "evil.example/x"})) == [
        "a container named openmcp is among the containers, ours would be among the initContainers"
    ]


def test_a_container_of_our_name_alone():
    """Even the very sidecar: an exec that names no container goes to the only one."""
    made = patched(pod(notes={"native_sidecar": "false"}))
    made["spec"]["containers"] = [sidecar_of(made)]
    for given in (made, pod({"name": "openmcp", "image": "evil.example/x"})):
        assert refused(given) == [
            "containers: there is none but openmcp; who gives no container's name to exec would be in it"
        ]


def test_a_name_with_dots_is_for_those_who_may_say_where_servers_are():
    named = {"name": "zendesk.tools.svc"}
    for given in (pod(meta=named, hostname="zendesk"), pod(meta={"generateName": "zendesk.v2-", "name": ""})):
        assert isinstance(inject(given, SETTINGS, "n"), Patch)
    for given in (pod(meta=named), pod(hostnameOverride="zendesk.tools.svc")):
        assert isinstance(inject(given, settings(trust="{dns: true}"), "n"), Patch)


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "openmcp-workload-api", "emptyDir": {}},
        {"name": "openmcp-workload-api", "hostPath": {"path": "/mine"}},
        {"name": "openmcp-token", "secret": {"secretName": "mine"}},
        {"name": "openmcp-config", "configMap": {"name": "mine"}},
        {"name": "openmcp-workload-api", "csi": {"driver": "csi.spiffe.io", "readOnly": False}},
    ],
)
def test_a_volume_of_our_name_has_to_be_ours(volume):
    assert refused(pod(volumes=[volume])) == [
        f"the volume named {volume['name']} is not what the injector puts in; that name is the sidecar's"
    ]


def test_a_volume_that_is_ours_twice():
    made = patched(pod())
    made["spec"]["volumes"].append(copy.deepcopy(made["spec"]["volumes"][0]))
    assert refused(made) == [
        "the volume named openmcp-token is not what the injector puts in; that name is the sidecar's"
    ]


def test_a_volume_that_is_ours_and_was_there_first_is_not_put_in_again():
    ours = patched(pod())["spec"]["volumes"]
    made = patched(pod(volumes=[ours[1]]))
    assert made["spec"]["volumes"] == [ours[1], ours[0]]


def test_the_settings_of_the_pod_do_not_reach_the_sidecar():
    """What a pod says for all its containers holds where a container says nothing: ours says all that matters."""
    loose = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "seccompProfile": {"type": "Unconfined"}}
    container = sidecar_of(patched(pod(securityContext=loose)))
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
