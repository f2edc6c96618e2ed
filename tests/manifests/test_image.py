"""The image: its Dockerfile, what is pinned, and what its `openmcp run` obeys. No Docker engine is needed, nor used."""

import fnmatch
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from openmcp.config import load
from openmcp.config.model import KubernetesOrigin

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "manifests/docker"
EXTRAS = ("aws", "dynamodb", "oidc", "otlp", "redis")
"""What is in the image beside the sidecar. The client of Kubernetes is not: in a pod nothing needs it."""


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", "".join(re.sub(r"^\s*#.*\n", "", line) for line in _lines()))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def _lines() -> list[str]:
    return (DOCKER / "Dockerfile").read_text().splitlines(keepends=True)


INSTRUCTIONS = _instructions()
STAGES = [index for index, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
FINAL = INSTRUCTIONS[STAGES[-1] :]


def _all(instructions: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in instructions if name == word]


def test_bases_are_the_same_debian_and_python_pinned_by_digest() -> None:
    bases = _all(INSTRUCTIONS, "FROM")
    found = [re.fullmatch(r"python:(3\.\d+\.\d+)(-slim)?-(\w+)@sha256:[0-9a-f]{64}( AS \w+)?", base) for base in bases]
    assert all(found)
    assert len({(base[1], base[3]) for base in found if base}) == 1
    assert [base[2] for base in found if base] == [None, "-slim"]


def test_nothing_is_installed_that_is_not_pinned() -> None:
    commands = " ".join(_all(INSTRUCTIONS, "RUN"))
    assert re.findall(r"\b(?:apt-get|apt|curl|wget|npm|git)\b", commands) == []
    installs = re.findall(r"pip (?:--python \S+ )?install (.*?)(?: &&|$|RUN|/opt/build/bin/python)", commands)
    assert len(installs) == 3
    for one in installs:
        assert "--require-hashes --only-binary :all:" in one or "--no-index --no-deps" in one
    assert _all(INSTRUCTIONS, "ADD") == []


def test_the_last_stage_runs_nothing_and_is_nobody() -> None:
    assert _all(FINAL, "RUN") == []
    assert _all(FINAL, "USER") == ["65532:65532"]
    assert FINAL.index(("USER", "65532:65532")) > max(i for i, (word, _) in enumerate(FINAL) if word == "COPY")
    assert not [copy for copy in _all(FINAL, "COPY") if "--chown" in copy]
    assert _all(FINAL, "ENTRYPOINT") == ['["openmcp"]']
    assert _all(FINAL, "CMD") == ['["run", "-c", "/etc/openmcp/gateway.yaml"]']


def test_no_secret_and_no_argument_is_in_it() -> None:
    assert {word for word, _ in INSTRUCTIONS} <= {
        "FROM",
        "ENV",
        "COPY",
        "RUN",
        "LABEL",
        "USER",
        "WORKDIR",
        "EXPOSE",
        "ENTRYPOINT",
        "CMD",
    }


def test_the_environment_is_copied_to_where_it_was_made() -> None:
    """Programs of a virtual environment name its Python with the whole path."""
    assert "--from=build /opt/openmcp /opt/openmcp" in _all(FINAL, "COPY")
    assert any("venv --without-pip /opt/openmcp " in run for run in _all(INSTRUCTIONS, "RUN"))
    assert "PATH=/opt/openmcp/bin:" in _all(FINAL, "ENV")[0]


def test_the_standard_library_comes_with_bytecode_that_is_good_for_the_other_base() -> None:
    """The official images remove theirs, and nothing can be written at run time: each start would compile it anew.

    The times of the sources differ between the bases, so what is there already is made again (-f), with hashes."""
    (compiled,) = (run for run in _all(INSTRUCTIONS, "RUN") if "compileall" in run)
    assert "-f " in compiled
    assert "--invalidation-mode checked-hash" in compiled
    assert compiled.index("compileall") < compiled.index("-name __pycache__") < compiled.index("--parents -t /bytecode")
    copies = _all(FINAL, "COPY")
    assert copies.index("--from=build /bytecode /") < copies.index("--from=build /opt/openmcp /opt/openmcp")


def _sent() -> tuple[list[str], list[str]]:
    """Of the working copy: what is sent to the engine, what of that is held back."""
    lines = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line[0] == "!"], [line for line in lines[1:] if line[0] != "!"]


def test_the_engine_gets_what_the_build_copies_and_the_sources_alone() -> None:
    sent, held = _sent()
    assert all((ROOT / path).exists() for path in sent)
    assert held == ["**/__pycache__", "**/*.pyc"]
    copied = [source for copy in _all(INSTRUCTIONS, "COPY") if "--from" not in copy for source in copy.split()[:-1]]
    for source in set(copied) - {"."}:
        assert any(source == path or source.startswith(f"{path}/") for path in sent), source
    wheel = (ROOT / ".ci/wheel.py").read_text()
    packages = re.search(r"^PACKAGES = \((.*)\)$", wheel, re.M)
    assert packages
    wanted = {
        ".ci/wheel.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "manifests/docker",
        *re.findall(r'"(\w+)"', packages[1]),
    }
    assert set(sent) == wanted
    assert not any(
        fnmatch.fnmatch(path, pattern)
        for path in (".env", "session.key", "audit.pem", ".git/config")
        for pattern in sent
    )


def _locked(name: str) -> Mapping[str, tuple[str, bool]]:
    """Packages of a lock file, each with its version and whether it has hashes."""
    found = re.findall(
        r"^([a-z0-9.-]+)==(\S+?)(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
        (DOCKER / name).read_text(),
        re.M,
    )
    pins = {package: (version, bool(hashes)) for package, version, hashes in found}
    assert len(pins) == (DOCKER / name).read_text().count("==")
    return pins


def _wanted(requirements: list[str]) -> list[Requirement]:
    return [
        one
        for one in map(Requirement, requirements)
        if one.marker is None or one.marker.evaluate({"sys_platform": "linux"})
    ]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(
    "requirement",
    _wanted(
        [
            *PROJECT["project"]["dependencies"],
            *(one for extra in EXTRAS for one in PROJECT["project"]["optional-dependencies"][extra]),
        ]
    ),
    ids=str,
)
def test_what_the_project_needs_is_locked_in_a_version_that_it_takes(requirement: Requirement) -> None:
    version, _ = _locked("requirements.txt")[re.sub(r"[-_.]+", "-", requirement.name).lower()]
    assert requirement.specifier.contains(Version(version))


def test_what_builds_goes_with_what_runs() -> None:
    runs, builds = _locked("requirements.txt"), _locked("requirements-build.txt")
    assert {"setuptools", "mypy", "types-pyyaml"} <= builds.keys()
    assert {name: pin for name, pin in builds.items() if name in runs} == {
        name: runs[name] for name in builds if name in runs
    }
    assert "kubernetes" not in runs


def test_the_image_s_own_configuration_is_good() -> None:
    loaded = load(DOCKER / "gateway.yaml")
    assert loaded.warnings == ()
    assert loaded.configuration.listen.mcp.host == "127.0.0.1"
    assert [type(agent).__name__ for agent in loaded.configuration.identity.agents] == ["WorkloadAgents"]
    assert loaded.configuration.source == KubernetesOrigin()
