"""What goes into pods, and what stays as it is."""

import copy

import pytest

from openmcp.config.yamltext import read_manifests, write_manifests
from openmcp.injector.pod import Patch, Refused, Unchanged, inject
from tests.injector.pods import AGENT, IMAGE, SETTINGS, patched, pod, refused, settings, sidecar_of
from tests.support.golden import check_golden

SERVERS = {"servers": "zendesk, git-hub=/gh-mcp"}
JOB = pod(AGENT | {"command": ["report"]}, notes=SERVERS, restartPolicy="Never", automountServiceAccountToken=False)
FETCH = {
    "name": "fetch",
    "image": "registry.example/fetch:1",
    "env": [{"name": "URL", "value": "$(OPENMCP_ZENDESK_URL)/x"}],
}
PROXY = {"name": "mesh", "image": "registry.example/mesh:2", "restartPolicy": "Always"}
LOGS = {"name": "logs", "image": "registry.example/logs:1"}
CASES = {
    "plain": (pod(notes=SERVERS), SETTINGS),
    "without-servers": (pod(), SETTINGS),
    "job": (JOB, SETTINGS),
    "init-containers": (pod(notes=SERVERS, initContainers=[FETCH, PROXY]), SETTINGS),
    "other-sidecar": (pod(AGENT, LOGS, notes={**SERVERS, "exclude_containers": "logs"}), SETTINGS),
    "everything-chosen": (
        pod(
            notes={
                "config": "gateway",
                "image": "registry.example/openmcp:1.5-rc1",
                "cpu": "100m",
                "cpu-limit": "1",
                "memory": "200Mi",
                "memory-limit": "1Gi",
                "log-level": "debug",
                "spiffe-volume": "host-path",
                "native-sidecar": "false",
            },
            volumes=[{"name": "cache", "emptyDir": {}}],
        ),
        settings(trust="{configMaps: [support-ai/gateway], images: [registry.example/openmcp]}"),
    ),
    "openshift": (pod(), settings("runAsUser: none, resources: {memoryLimit: none}")),
    "without-spiffe": (pod(), settings("spiffe: {volume: none}")),
    "told-of-the-api-server": (pod(), settings("apiServer: '10.96.0.1:443', admin: '[::]:15020', logLevel: warning")),
    "nulls": (
        pod({**AGENT, "env": None}, notes=SERVERS, meta={"labels": None}, initContainers=None, volumes=None),
        SETTINGS,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_in(case):
    given, by = CASES[case]
    check_golden(f"injector/{case}.yaml", write_manifests([patched(given, by)]))


@pytest.mark.parametrize("case", CASES)
def test_a_second_pass_changes_nothing(case):
    given, by = CASES[case]
    assert inject(patched(given, by), by, "support-ai") == Unchanged(reason="the sidecar is there already")


@pytest.mark.parametrize("more", ["", "native: false"])
def test_a_sidecar_of_a_manifest_is_told_where_the_api_server_is(more):
    """`openmcp inject` does not know that; everything else has to be what the injector would put in."""
    offline, there = settings(more), settings(f"{more}{more and ', '}apiServer: '10.96.0.1:443'")
    made = patched(pod(), offline)
    assert patched(made, there) == patched(pod(), there)
    sidecar_of(made)["env"].append({"name": "KUBERNETES_SERVICE_HOST", "value": "10.66.6.6"})
    assert refused(made, there) == [
        "the container named openmcp is not what the injector puts in: env: KUBERNETES_SERVICE_HOST differs"
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_golden_files_can_be_read_as_they_were(case):
    given, by = CASES[case]
    made = patched(given, by)
    assert read_manifests(write_manifests([made]).encode()) == [made]


def test_a_pod_with_nothing_at_all():
    bare = {"spec": {"containers": [{"name": "agent"}]}}
    made = patched(bare)
    assert made["metadata"]["labels"] == {"openmcp.dev/injected": "true"}
    assert inject(made, SETTINGS, "support-ai") == Unchanged(reason="the sidecar is there already")


def test_the_sidecar_is_started_before_everything_else():
    made = patched(pod(initContainers=[FETCH, PROXY]))
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["openmcp", "fetch", "mesh"]


def test_an_old_cluster_gets_it_as_the_last_container():
    made = patched(pod(AGENT, LOGS, notes={"native_sidecar": "false", **SERVERS}, initContainers=[FETCH]))
    assert [one["name"] for one in made["spec"]["containers"]] == ["agent", "logs", "openmcp"]
    assert "restartPolicy" not in sidecar_of(made)
    assert made["spec"]["initContainers"] == [FETCH]  # it runs before there is anybody to call


def test_fields_that_we_do_not_know_stay():
    strange = pod({**AGENT, "futureField": {"a": [1, 2.5, None]}}, resourceClaims=[{"name": "gpu"}], futureThing=[{}])
    made = patched(strange)
    assert made["spec"]["containers"] == strange["spec"]["containers"]
    assert (made["spec"]["resourceClaims"], made["spec"]["futureThing"]) == ([{"name": "gpu"}], [{}])


def test_variables_come_before_the_agents_own_so_that_it_may_use_them():
    made = patched(pod(FETCH | {"name": "agent"}, notes=SERVERS))
    assert [one["name"] for one in made["spec"]["containers"][0]["env"]] == [
        "OPENMCP_ZENDESK_URL",
        "OPENMCP_GIT_HUB_URL",
        "URL",
    ]


def test_a_variable_of_the_agent_is_kept_and_told():
    own = {"name": "OPENMCP_ZENDESK_URL", "value": "http://elsewhere"}
    found = inject(pod({**AGENT, "env": [own]}, notes={"servers": "zendesk"}), SETTINGS, "support-ai")
    assert isinstance(found, Patch)
    assert found.warnings == ("container agent: its own OPENMCP_ZENDESK_URL is kept",)
    made = patched(pod({**AGENT, "env": [own]}, notes={"servers": "zendesk"}))
    assert made["spec"]["containers"][0]["env"] == [own]


def test_a_container_that_another_webhook_added_later_is_told_too():
    made = patched(pod(notes=SERVERS))
    made["spec"]["containers"].append(LOGS)
    again = patched(made)
    assert again["spec"]["containers"][1]["env"] == again["spec"]["containers"][0]["env"]


def test_excluding_a_container_that_is_not_there_is_told():
    found = inject(pod(notes={"exclude_containers": "lgos"}), SETTINGS, "support-ai")
    assert isinstance(found, Patch)
    assert found.warnings == ("openmcp.dev/exclude-containers: there is no container lgos",)


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "openmcp-system", "build"])
def test_excluded_namespaces_are_left_alone(namespace):
    by = settings(namespace="openmcp-system", excludedNamespaces="[build]")
    assert inject(pod(hostNetwork=True), by, namespace) == Unchanged(
        reason=f"nothing is injected in the namespace {namespace}"
    )


@pytest.mark.parametrize("key", ["labels", "annotations"])
def test_opting_out(key):
    given = pod(meta={key: {"openmcp.dev/inject": "false"}}, hostNetwork=True)
    assert inject(given, SETTINGS, "support-ai") == Unchanged(reason='openmcp.dev/inject is "false"')


def test_one_false_is_enough():
    both = {"labels": {"openmcp.dev/inject": "true"}, "annotations": {"openmcp.dev/inject": "false"}}
    assert isinstance(inject(pod(meta=both), SETTINGS, "support-ai"), Unchanged)


@pytest.mark.parametrize("word", ["yes", "False", "", "enabled", "true "])
def test_neither_true_nor_false_is_refused(word):
    assert refused(pod(meta={"labels": {"openmcp.dev/inject": word}})) == [
        'openmcp.dev/inject: write "true" or "false"'
    ]


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"meta": {"labels": {"openmcp.dev/injected": "true"}}}, "the label openmcp.dev/injected"),
        ({"meta": {"labels": {"openmcp.dev/injected": ""}}}, "the label openmcp.dev/injected"),
        ({"initContainers": [{"name": "openmcp"}]}, "a container named openmcp"),
        ({"volumes": [{"name": "openmcp-workload-api"}]}, "a volume named openmcp-workload-api"),
    ],
)
def test_who_opts_out_must_not_look_governed(change, claim):
    given = pod(**change)
    given["metadata"]["annotations"] = {"openmcp.dev/inject": "false"}
    assert refused(given) == [f'openmcp.dev/inject is "false", and the pod has {claim}']


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "the pod: a mapping is wanted"),
        ([], "the pod: a mapping is wanted"),
        ({}, "spec: a mapping is wanted"),
        ({"spec": {"containers": []}}, "spec.containers: at least one is wanted"),
        ({"spec": {"containers": [{"name": 1}]}}, "spec.containers: each entry has a name"),
        ({"spec": {"containers": {"name": "a"}}}, "spec.containers: a list is wanted"),
        ({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}, "spec: two containers have one name"),
        ({"metadata": [], "spec": {"containers": [AGENT]}}, "metadata: a mapping is wanted"),
        ({"metadata": {"labels": {"a": 1}}, "spec": {"containers": [AGENT]}}, "metadata.labels: all values are texts"),
        ({"spec": {"containers": [AGENT], "volumes": ["x"]}}, "spec.volumes: a mapping is wanted"),
        ({"spec": {"containers": [{**AGENT, "env": "x"}]}}, "spec.containers.agent.env: a list is wanted"),
        (
            {"spec": {"containers": [AGENT], "volumes": [{"name": "a", "csi": "x"}]}},
            "spec.volumes.a.csi: a mapping is wanted",
        ),
    ],
)
def test_what_is_no_pod_is_refused(given, reason):
    assert refused(given) == [reason]


def test_all_that_is_wrong_is_told_at_once():
    given = pod(notes={"servers": "a b", "cpu": "much"}, hostNetwork=True, shareProcessNamespace=True)
    assert refused(given) == [
        'openmcp.dev/cpu: not a quantity: "much", such as 100m or 128Mi',
        'openmcp.dev/servers: not the name of a server: "a b"',
        "hostNetwork: every process of the node would reach the sidecar's loopback; remove it",
        "shareProcessNamespace: the agent's processes would reach into the sidecar's; remove it",
    ]


def test_the_status_is_ours_whatever_it_said():
    made = patched(pod(notes={"status": "injected by me"}))
    assert made["metadata"]["annotations"]["openmcp.dev/status"] == (
        f'{{"container":"openmcp","image":"{IMAGE}","volumes":["openmcp-token","openmcp-workload-api"]}}'
    )


def test_a_label_that_says_something_else_is_set_right():
    made = patched(pod(meta={"labels": {"openmcp.dev/injected": "false"}}))
    assert made["metadata"]["labels"] == {"openmcp.dev/injected": "true"}


def test_a_later_injector_does_not_take_the_pod_of_an_earlier_one():
    made = patched(pod())
    later = settings("imagePullPolicy: Always")
    assert isinstance(inject(copy.deepcopy(made), later, "support-ai"), Refused)
