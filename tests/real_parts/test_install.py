"""What Maven brings is taken only if it is what was pinned, file by file; what Go builds knows its versions."""

import hashlib

import pytest

from tests.real_parts import install

MAVEN = """#!/bin/sh
mkdir lib
printf one > lib/one.jar
printf two > lib/two.jar
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The folder of a part whose Maven makes two files."""
    program = tmp_path / "bin" / "mvn"
    program.parent.mkdir()
    program.write_text(MAVEN)
    program.chmod(0o755)
    folder = tmp_path / "recipes" / "maven" / "part"
    folder.mkdir(parents=True)
    (folder / "pom.xml").write_text("<project/>")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("OPENMCP_PARTS", str(tmp_path / "parts"))
    monkeypatch.setattr(install, "RECIPES", tmp_path / "recipes")
    monkeypatch.setattr(install, "PAUSES", (0.0, 0.0))
    monkeypatch.setitem(install.KINDS, "part", "maven")
    return folder


def pin(folder, **files):
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}.jar\n" for name, text in files.items()]
    (folder / "checksums.txt").write_text("".join(lines))


def test_what_was_pinned_is_installed(recipe):
    pin(recipe, one="one", two="two")
    installed = install.install("part")
    assert sorted(file.name for file in install.libraries("part").iterdir()) == ["one.jar", "two.jar"]
    assert install.is_installed("part")
    assert install.install("part") == installed


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"one": "one", "two": "2"}, "two.jar"),
        ({"one": "one"}, "two.jar"),
        ({"one": "one", "two": "two", "three": "three"}, "three.jar"),
    ],
)
def test_anything_else_is_refused(recipe, files, wrong):
    pin(recipe, **files)
    with pytest.raises(install.PartError, match=f"part: not what was pinned: {wrong}"):
        install.install("part")
    assert not install.is_installed("part")


def test_a_failure_of_maven_is_shown(recipe, tmp_path):
    pin(recipe)
    (tmp_path / "bin" / "mvn").write_text("#!/bin/sh\necho no network\nexit 1\n")
    with pytest.raises(install.PartError, match="mvn -B failed\nno network"):
        install.install("part")


def test_a_download_that_fails_once_is_tried_again(recipe, tmp_path):
    pin(recipe, one="one", two="two")
    (tmp_path / "bin" / "mvn").write_text(MAVEN.replace("mkdir", f"mkdir {tmp_path}/tried && exit 1\nmkdir", 1))
    assert install.install("part").is_dir()


GO = """#!/bin/sh
mkdir bin
printf '%s\\n' "$@" > bin/arguments
"""
MODULE = """module openmcp.dev/parts/part

go 1.21

tool helm.sh/helm/v3/cmd/helm

require (
\thelm.sh/helm/v3 v3.20.2 // indirect
\tk8s.io/kubernetes v1.35.4
)

replace k8s.io/api => k8s.io/api v0.35.4
"""


@pytest.fixture
def go_recipe(recipe, tmp_path, monkeypatch):
    """The folder of a part whose Go writes down what it was asked for."""
    for name in ("go", "cc"):
        program = tmp_path / "bin" / name
        program.write_text(GO)
        program.chmod(0o755)
    folder = tmp_path / "recipes" / "go" / "part"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text(MODULE)
    (folder / "go.sum").write_text("")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setitem(install.KINDS, "part", "go")
    return folder


def test_programs_are_built_with_the_versions_that_they_are_asked_for(go_recipe):
    arguments = (install.install("part") / "bin" / "arguments").read_text().splitlines()
    assert arguments == [
        "build",
        "-mod=readonly",
        "-buildvcs=false",
        "-trimpath",
        "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4"
        " -X helm.sh/helm/v3/internal/version.version=v3.20.2 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=35",
        "-o",
        "bin/",
        "tool",
    ]


def test_a_program_of_ours_is_built_and_pins_its_part(go_recipe, monkeypatch):
    (go_recipe / "go.mod").write_text(MODULE.replace("tool helm.sh/helm/v3/cmd/helm\n", ""))
    (go_recipe / "main.go").write_text("package main\n")
    monkeypatch.setitem(install._GO_TAGS, "part", "less")
    installed = install.install("part")
    assert (installed / "main.go").exists()
    arguments = (installed / "bin" / "arguments").read_text().splitlines()
    assert ("-tags=less" in arguments, arguments[-1]) == (True, ".")
    (go_recipe / "main.go").write_text("package main // another\n")
    assert install.part_folder("part") != installed
