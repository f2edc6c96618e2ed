"""What holds for every pod: nothing of the agent is lost, twice is once, and the sidecar alone gets what is its own."""

import copy
import json

import jsonpatch
from hypothesis import given
from hypothesis import strategies as st

from openmcp.injector.pod import Patch, Refused, Unchanged, inject
from openmcp.injector.review import NotAReview, review
from tests.injector.pods import SETTINGS, request, settings

OURS = {"openmcp-workload-api", "openmcp-token", "openmcp-config"}
WORDS = st.sampled_from(["agent", "openmcp", "logs", "a/b", "x~y", "", "~1", "OPENMCP_A_URL", "OPENMCP_B_URL"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99999) | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
VARIABLES = st.lists(st.fixed_dictionaries({"name": WORDS}, optional={"value": st.text(max_size=5)}), max_size=4)
MOUNTS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["v0", *OURS]), "mountPath": st.sampled_from(["/a", "/b"])}),
    max_size=2,
)
CONTAINERS = st.fixed_dictionaries(
    {"name": st.sampled_from(["agent", "logs", "mesh", "fetch", "report"])},
    optional={
        "image": WORDS,
        "env": st.none() | VARIABLES,
        "volumeMounts": st.none() | MOUNTS,
        "restartPolicy": st.sampled_from(["Always", None]),
        "securityContext": st.none()
        | st.fixed_dictionaries(
            {}, optional={"runAsUser": st.sampled_from([0, 1000, 65532]), "privileged": st.booleans()}
        ),
        "ports": st.none() | st.just([{"containerPort": 8080}]),
        "unknown": VALUES,
    },
)
VOLUMES = st.fixed_dictionaries(
    {"name": st.sampled_from(["v0", "v1", *OURS])},
    optional={
        "emptyDir": st.just({}),
        "csi": st.fixed_dictionaries({"driver": st.sampled_from(["csi.spiffe.io", "x"])}),
        "hostPath": st.fixed_dictionaries({"path": st.sampled_from(["/", "/run", "/mnt"])}),
    },
)
NOTES = st.dictionaries(
    st.sampled_from(["servers", "exclude-containers", "native-sidecar", "cpu", "memory-limit", "other", "status"]).map(
        "openmcp.dev/{}".format
    )
    | WORDS,
    st.sampled_from(["a", "a,b=/x", "true", "false", "1", "logs", ""]),
    max_size=4,
)


def distinct(named):
    return list({one["name"]: one for one in named}.values())


@st.composite
def pods(draw):
    every = distinct(draw(st.lists(CONTAINERS, min_size=1, max_size=4)))
    cut = draw(st.integers(1, len(every)))
    spec = {"containers": every[:cut]} | draw(
        st.fixed_dictionaries(
            {},
            optional={
                "initContainers": st.sampled_from([every[cut:], every[cut:] or None]),
                "volumes": st.none() | st.lists(VOLUMES, max_size=3).map(distinct),
                "hostNetwork": st.sampled_from([False, None, False, True]),
                "securityContext": st.none() | st.just({"runAsUser": 1000}),
                "unknown": VALUES,
            },
        )
    )
    meta = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "labels": st.none() | st.dictionaries(WORDS, WORDS, max_size=2),
                "annotations": st.none() | NOTES,
                "unknown": VALUES,
            },
        )
    )
    return {"metadata": meta, "spec": spec}


def without_ours(made, before):
    """The pod without what the injector is to put in: this has to be what was given."""
    left = copy.deepcopy(made)
    spec, meta = left["spec"], left["metadata"]
    for key in ("initContainers", "containers"):
        spec[key] = [one for one in spec.get(key) or [] if one["name"] != "openmcp"]
    there = [one["name"] for one in before["spec"].get("volumes") or []]
    spec["volumes"] = [one for one in spec["volumes"] if one["name"] not in OURS or one["name"] in there]
    old = {one["name"]: one for key in ("initContainers", "containers") for one in before["spec"].get(key) or []}
    for one in (*spec["initContainers"], *spec["containers"]):
        count = len(old[one["name"]].get("env") or [])
        one["env"] = one["env"][len(one["env"]) - count :] if one.get("env") else []
    del meta["labels"]["openmcp.dev/injected"], meta["annotations"]["openmcp.dev/status"]
    return left


def same(left, right):
    """Whether two pods are equal, where an empty list or mapping is as good as none at all."""

    def bare(value):
        if isinstance(value, dict):
            return {key: bare(one) for key, one in value.items()}
        return [bare(one) for one in value] if isinstance(value, list) else value

    def loose(pod):
        pod = bare(pod)
        for key in ("labels", "annotations"):
            found = {name: text for name, text in (pod["metadata"].get(key) or {}).items()}
            found.pop("openmcp.dev/injected", None)
            found.pop("openmcp.dev/status", None)
            pod["metadata"][key] = found
        for key in ("initContainers", "containers", "volumes"):
            pod["spec"][key] = pod["spec"].get(key) or []
        for one in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
            one["env"] = one.get("env") or []
        return pod

    return loose(left) == loose(right)


@given(pods())
def test_nothing_of_the_agents_is_lost_and_twice_is_once(pod):
    before = copy.deepcopy(pod)
    found = inject(pod, SETTINGS, "n")
    assert pod == before
    if not isinstance(found, Patch):
        assert isinstance(found, Refused)
        return
    made = jsonpatch.apply_patch(pod, json.loads(json.dumps(found.operations)))
    assert same(without_ours(made, before), before)
    assert isinstance(inject(made, SETTINGS, "n"), Unchanged)


@given(pods())
def test_what_is_injected_is_the_sidecars_alone(pod):
    found = inject(pod, SETTINGS, "n")
    if not isinstance(found, Patch):
        return
    made = jsonpatch.apply_patch(pod, json.loads(json.dumps(found.operations)))
    spec = made["spec"]
    every = [*(spec.get("initContainers") or []), *spec["containers"]]
    (sidecar,) = [one for one in every if one["name"] == "openmcp"]
    socket = [
        volume["name"] for volume in spec["volumes"] if (volume.get("csi") or {}).get("driver") == "csi.spiffe.io"
    ]
    assert socket == ["openmcp-workload-api"]
    assert not any(volume.get("hostPath") for volume in spec["volumes"])
    for one in every:
        if one is sidecar:
            continue
        assert not OURS & {mount["name"] for mount in one.get("volumeMounts") or []}
        security = one.get("securityContext") or {}
        assert not security.get("privileged")
        assert security.get("runAsUser") != 65532
    assert not spec.get("hostNetwork")
    assert "command" not in sidecar


@given(pods(), st.sampled_from(["image", "command", "env", "volumeMounts", "securityContext", "lifecycle"]), VALUES)
def test_a_sidecar_that_was_changed_is_refused(pod, key, value):
    found = inject(pod, SETTINGS, "n")
    if not isinstance(found, Patch):
        return
    made = jsonpatch.apply_patch(pod, json.loads(json.dumps(found.operations)))
    every = [*(made["spec"].get("initContainers") or []), *made["spec"]["containers"]]
    (sidecar,) = [one for one in every if one["name"] == "openmcp"]
    if value in (sidecar.get(key), None, [], {}, "", False):
        return
    sidecar[key] = value
    assert isinstance(inject(made, SETTINGS, "n"), Refused)


@given(VALUES, st.sampled_from(["metadata", "spec"]), pods())
def test_any_json_is_answered(value, key, pod):
    for strange in (value, pod | {key: value}, pod | {"spec": {"containers": value, "volumes": value}}):
        assert isinstance(inject(strange, SETTINGS, "n"), Patch | Unchanged | Refused)
        assert json.loads(review(request(strange), SETTINGS).answer())["response"]["allowed"] in (True, False)


@given(
    st.binary(max_size=50)
    | VALUES.map(
        lambda value: json.dumps(
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": value}
        ).encode()
    )
)
def test_any_bytes_are_a_review_or_not(body):
    try:
        review(body, SETTINGS)
    except NotAReview:
        return
    raise AssertionError("nothing here has a uid")


@given(
    pods(),
    st.sampled_from(["native: false", "spiffe: {volume: none}", "runAsUser: none", "spiffe: {volume: host-path}"]),
)
def test_other_settings_are_idempotent_too(pod, more):
    by = settings(more)
    found = inject(pod, by, "n")
    if isinstance(found, Patch):
        made = jsonpatch.apply_patch(pod, json.loads(json.dumps(found.operations)))
        assert isinstance(inject(made, by, "n"), Unchanged)
