"""What a pod may choose, and how far."""

from pathlib import Path

import pytest

from openmcp.injector.annotations import KNOWN, Annotations, Choices, Server
from openmcp.injector.settings import Resources
from tests.injector.pods import IMAGE, SETTINGS, settings

DIGEST = "sha256:" + "5" * 64


def choose(by=SETTINGS, namespace="support-ai", /, **notes):
    """The choices of annotations, which have no faults and warnings."""
    read = Annotations({f"openmcp.dev/{key.replace('_', '-')}": notes[key] for key in notes}, by, namespace)
    made = read.choices()
    assert (read.faults, read.warnings) == ([], [])
    return made


def faults(by=SETTINGS, namespace="support-ai", /, **notes):
    """What is wrong with annotations."""
    read = Annotations({f"openmcp.dev/{key.replace('_', '-')}": notes[key] for key in notes}, by, namespace)
    read.choices()
    return read.faults


def test_nothing_is_chosen():
    assert choose() == Choices(image=IMAGE, native=True, volume="csi", resources=Resources())


def test_everything_is_chosen():
    by = settings(trust="{configMaps: ['*/gateway'], images: [registry.example/openmcp]}")
    made = choose(
        by,
        inject="true",
        config="gateway",
        servers=" zendesk , github = /gh-mcp,",
        image=f"registry.example/openmcp@{DIGEST}",
        cpu="0.1",
        cpu_limit="2",
        memory="64Mi",
        memory_limit="1G",
        log_level="error",
        spiffe_volume="host-path",
        native_sidecar="false",
        exclude_containers="logs, mesh",
        status="whatever",
    )
    assert made == Choices(
        image=f"registry.example/openmcp@{DIGEST}",
        native=False,
        volume="host-path",
        resources=Resources(cpu="0.1", cpu_limit="2", memory="64Mi", memory_limit="1G"),
        log_level="error",
        config="gateway",
        servers=(Server("zendesk", "/zendesk"), Server("github", "/gh-mcp")),
        excluded=("logs", "mesh"),
    )


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("zendesk", "OPENMCP_ZENDESK_URL"),
        ("git-hub.v2_x", "OPENMCP_GIT_HUB_V2_X_URL"),
        ("9lives", "OPENMCP_9LIVES_URL"),
    ],
)
def test_the_variable_of_a_server(name, variable):
    assert Server(name, "/x").variable == variable


@pytest.mark.parametrize(
    ("notes", "fault"),
    [
        ({"servers": "a-b,a.b"}, "servers: a-b and a.b are both OPENMCP_A_B_URL"),
        ({"servers": "a,a"}, "servers: a and a are both OPENMCP_A_URL"),
        ({"servers": "-a"}, 'servers: not the name of a server: "-a"'),
        ({"servers": "=/x"}, 'servers: not the name of a server: ""'),
        ({"servers": "a=x"}, 'servers: not a path: "x", a path begins with /: "/x"'),
        ({"servers": "a=/x/../y"}, 'servers: not a path: "/x/../y", segments of letters'),
        ({"servers": "a=/x?y"}, 'servers: not a path: "/x?y", a path has no query and no fragment'),
        ({"servers": "a=//evil.example"}, 'servers: not a path: "//evil.example", segments of letters'),
        ({"servers": "a" * 4097}, "servers: longer than 4096 characters"),
        ({"image": "evil.example/openmcp"}, "image: evil.example/openmcp is not a repository that the injector's"),
        ({"image": "registry.example/openmcp-evil:1"}, "image: registry.example/openmcp-evil is not a repository"),
        ({"image": "registry.example/openmcp/evil:1"}, "image: registry.example/openmcp/evil is not a repository"),
        ({"image": "registry.example/openmcp:1 --x"}, 'image: not an image: "registry.example/openmcp:1 --x"'),
        ({"image": ""}, 'image: not an image: ""'),
        ({"config": "gateway"}, "config: support-ai/gateway is not in the injector's trust.configMaps"),
        ({"config": "../x"}, 'config: not the name of a ConfigMap: "../x"'),
        ({"cpu": "1e3"}, 'cpu: not a quantity: "1e3", such as 100m or 128Mi'),
        ({"cpu": "-1"}, 'cpu: not a quantity: "-1"'),
        ({"memory": "0"}, 'memory: not a quantity: "0"'),
        ({"memory": "1Gi", "memory_limit": "1G"}, "memory-limit: 1G is less than openmcp.dev/memory, 1Gi"),
        ({"log_level": "trace"}, 'log-level: unknown value "trace", one of: debug, info, warning, error'),
        ({"spiffe_volume": "none"}, 'spiffe-volume: unknown value "none", one of: csi, host-path'),
        ({"native_sidecar": "no"}, 'native-sidecar: unknown value "no", one of: true, false'),
        ({"exclude_containers": "A B"}, 'exclude-containers: not the name of a container: "A B"'),
    ],
)
def test_what_cannot_be(notes, fault):
    (found,) = faults(**notes)
    assert found.startswith(f"openmcp.dev/{fault}")


def test_a_config_map_is_trusted_by_namespace():
    by = settings(trust="{configMaps: [support-ai/gateway]}")
    assert choose(by, "support-ai", config="gateway").config == "gateway"
    assert faults(by, "other", config="gateway") == [
        "openmcp.dev/config: other/gateway is not in the injector's trust.configMaps"
    ]


@pytest.mark.parametrize(
    ("trusted", "image", "is_good"),
    [
        ("[]", IMAGE, True),
        ("[]", "registry.example/openmcp:1.5", False),
        ("[registry.example/openmcp]", "registry.example/openmcp:1.5", True),
        ("[other.example/openmcp]", "registry.example/openmcp:1.5", False),
        ("[other.example/openmcp]", "other.example/openmcp:2", True),
        ("[other.example/team/*]", "other.example/team/a/b:2", True),
        ("[other.example/team/*]", "other.example/teams/a:2", False),
        ("['localhost:5000/openmcp']", "localhost:5000/openmcp:2", True),
        ("['localhost:5000/openmcp']", "localhost:5000", False),
    ],
)
def test_repositories_that_are_trusted(trusted, image, is_good):
    by = settings(trust=f"{{images: {trusted}}}")
    assert (faults(by, image=image) == []) is is_good


def test_nobody_chooses_an_image_where_nothing_is_said():
    assert faults(image=IMAGE) == []
    assert faults(image="registry.example/openmcp:1.3") == [
        "openmcp.dev/image: registry.example/openmcp is not a repository that the injector's trust.images allows"
    ]


@pytest.mark.parametrize(
    ("notes", "resources"),
    [
        ({"memory": "1Gi"}, Resources(memory="1Gi", memory_limit="1Gi")),
        ({"memory_limit": "64Mi"}, Resources(memory="64Mi", memory_limit="64Mi")),
        ({"memory": "200Mi"}, Resources(memory="200Mi")),
        ({"cpu": "3"}, Resources(cpu="3")),
        ({"cpu_limit": "20m"}, Resources(cpu="20m", cpu_limit="20m")),
    ],
)
def test_one_of_a_pair_moves_the_other_along(notes, resources):
    assert choose(**notes).resources == resources


def test_an_annotation_that_nobody_knows_is_a_warning():
    read = Annotations({"openmcp.dev/server": "a", "openmcp.dev/mood": "good", "other.dev/server": "b"}, SETTINGS, "n")
    read.choices()
    assert read.faults == []
    assert read.warnings == [
        "unknown annotation openmcp.dev/mood: it has no effect",
        'unknown annotation openmcp.dev/server: did you mean "servers"?',
    ]


def test_the_documentation_has_them_all():
    page = (Path(__file__).resolve().parents[2] / "docs" / "injection.md").read_text(encoding="utf-8")
    table = page.partition("## Annotations")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in cell.split("`")[1::2]}
    assert named == set(KNOWN) - {"status"}
