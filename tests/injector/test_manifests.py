"""`openmcp inject -f`: files get what pods would get."""

import copy
import json

import pytest
from click.testing import CliRunner

from openmcp.config.yamltext import read_manifests
from openmcp.injector.manifests import inject_all
from openmcp.sidecar.cli import main
from tests.injector.pods import AGENT, IMAGE, SETTINGS, patched, pod, settings
from tests.support.golden import check_golden

TEMPLATE = {"metadata": {"annotations": {"openmcp.dev/servers": "zendesk"}}, "spec": {"containers": [AGENT]}}


def workload(api, kind, spec, **metadata):
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "support", **metadata}, "spec": spec}


WORKLOADS = [
    workload("apps/v1", "Deployment", {"template": TEMPLATE}),
    workload("apps/v1", "StatefulSet", {"template": TEMPLATE}),
    workload("apps/v1", "DaemonSet", {"template": TEMPLATE}),
    workload("apps/v1", "ReplicaSet", {"template": TEMPLATE}),
    workload("v1", "ReplicationController", {"template": TEMPLATE}),
    workload("batch/v1", "Job", {"template": TEMPLATE}),
    workload("batch/v1", "CronJob", {"jobTemplate": {"spec": {"template": TEMPLATE}}}),
    {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "support"}, "template": TEMPLATE},
]


def template_of(document):
    found = document.get("template") or document["spec"].get("template")
    return found or document["spec"]["jobTemplate"]["spec"]["template"]


@pytest.mark.parametrize("document", WORKLOADS, ids=lambda document: document["kind"])
def test_a_template_gets_what_its_pods_would_get(document):
    before = copy.deepcopy(document)
    (made,), (note,) = inject_all([document], SETTINGS, "support-ai")
    assert document == before
    assert template_of(made) == patched(TEMPLATE)
    assert (note.name, note.outcome, note.reasons) == (
        f"{document['kind']} support-ai/support",
        "injected",
        (f"sidecar {IMAGE}",),
    )


def test_what_has_no_pod_is_let_be():
    others = [
        workload("v1", "Service", {"selector": {}}),
        workload("example.com/v1", "Deployment", {"template": TEMPLATE}),
        {"kind": "Kustomization"},
        "text",
        5,
        None,
    ]
    assert inject_all(others, SETTINGS, "support-ai") == (others, [])


def test_lists_are_looked_into():
    listed = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [WORKLOADS[0], {"kind": "PodList", "items": [pod() | {"kind": "Pod"}]}],
    }
    (made,), notes = inject_all([listed], SETTINGS, "support-ai")
    assert [note.name for note in notes] == ["Deployment support-ai/support", "Pod support-ai/support"]
    assert template_of(made["items"][0]) == patched(TEMPLATE)


def test_the_items_of_a_pod_list_are_pods_without_saying_so():
    """kubectl applies them as pods."""
    bare = {key: value for key, value in pod().items() if key not in ("apiVersion", "kind")}
    given = [{"apiVersion": "v1", "kind": "PodList", "items": [bare, "text", {"kind": "Service"}]}]
    before = copy.deepcopy(given)
    ((made,), (note,)) = inject_all(given, SETTINGS, "support-ai")
    assert given == before
    assert (note.name, note.outcome) == ("Pod support-ai/support", "injected")
    assert made["items"] == [patched(pod()), "text", {"kind": "Service"}]


def test_the_namespace_of_an_object_counts():
    given = workload("apps/v1", "Deployment", {"template": TEMPLATE}, namespace="kube-system")
    (made,), (note,) = inject_all([given], SETTINGS, "support-ai")
    assert made == given
    assert note.reasons == ("nothing is injected in the namespace kube-system",)


@pytest.mark.parametrize("spec", [{}, {"template": None}, {"template": {"spec": None}}, {"template": []}, None, 5])
def test_a_workload_without_a_pod_is_refused(spec):
    _, (note,) = inject_all([workload("apps/v1", "Deployment", spec)], SETTINGS, "support-ai")
    assert note.outcome == "refused"


MANIFESTS = """\
# A support agent.
apiVersion: apps/v1
kind: Deployment
metadata: {name: support, namespace: support-ai}
spec:
  replicas: 2
  selector: {matchLabels: {app: support}}
  template:
    metadata:
      labels: {app: support, version: "1.10"}
      annotations: {openmcp.dev/servers: zendesk}
    spec:
      containers:
        - name: agent
          image: registry.example/agent:7
          command: [sh, -c, "exec agent --ready yes\\n"]
          resources: {limits: {memory: 1Gi, cpu: 1.5}}
      volumes:
        - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
---
apiVersion: v1
kind: Service
metadata: {name: support, namespace: support-ai}
spec: {ports: [{port: 80}], selector: {app: support}}
"""


@pytest.fixture
def run(tmp_path):
    """Runs `openmcp inject` with these settings: exit code, standard output, standard error."""

    def inject(*arguments, config=f"sidecar: {{image: '{IMAGE}'}}", text=""):
        path = tmp_path / "injector.yaml"
        path.write_text(config)
        told = CliRunner().invoke(main, ["inject", "-c", str(path), *arguments], input=text, catch_exceptions=False)
        return told.exit_code, told.stdout, told.stderr.replace(f"{tmp_path}/", "")

    return inject


def test_manifests_are_written_with_the_sidecar(run):
    code, out, err = run("-f", "-", text=MANIFESTS)
    assert (code, err) == (0, f"Deployment support-ai/support: injected: sidecar {IMAGE}\n")
    check_golden("injector/manifests.yaml", out)
    assert run("-f", "-", text=out) == (
        0,
        out,
        "Deployment support-ai/support: unchanged: the sidecar is there already\n",
    )


def test_several_files_in_their_order(run, tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(json.dumps(pod(meta={"name": name})))
    code, out, err = run("-f", str(tmp_path / "b"), "-f", str(tmp_path / "a"), "-n", "here")
    assert code == 0
    assert [one["metadata"]["name"] for one in read_manifests(out.encode())] == ["b", "a"]
    assert err == f"Pod here/b: injected: sidecar {IMAGE}\nPod here/a: injected: sidecar {IMAGE}\n"


def test_nothing_is_written_where_a_pod_cannot_be_governed(run):
    text = json.dumps(pod(notes={"mood": "x"}, hostNetwork=True)) + "\n---\n" + json.dumps(pod())
    assert run("-f", "-", text=text) == (
        1,
        "",
        "warning: Pod default/support: unknown annotation openmcp.dev/mood: it has no effect\n"
        "Pod default/support: refused: "
        "hostNetwork: every process of the node would reach the sidecar's loopback; remove it\n"
        f"Pod default/support: injected: sidecar {IMAGE}\n",
    )


def test_what_cannot_be_read(run):
    assert run("-f", "-", text="a: 1\na: 2") == (1, "", '-: not YAML: line 2: duplicate key "a"\n')
    assert run("-f", "missing.yaml") == (3, "", "missing.yaml: cannot be read: No such file or directory\n")
    assert run("-f", "-", config="sidecar: {}") == (1, "", "injector.yaml:1: sidecar: `image` is required\n")


def test_names_do_what_they_like_to_no_terminal(run):
    code, _, err = run(
        "-f", "-", text=json.dumps(pod(meta={"name": "a\x1b[2J", "annotations": {"openmcp.dev/image": "\x1b"}}))
    )
    assert code == 1
    assert "\x1b" not in err


def test_settings_are_those_of_the_cluster():
    by = settings("imagePullPolicy: Always")
    (made,), _ = inject_all([WORKLOADS[0]], by, "n")
    assert template_of(made) == patched(TEMPLATE, by)
