"""What Maven brings is taken only if it is what was pinned, file by file."""

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
