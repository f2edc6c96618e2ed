"""The house: folders, packages, imports and suppressions are as agreed."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from openmcp.sidecar.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE_FOLDERS = ("config", "identity", "injector", "sidecar")
TOP_LEVEL = {*PACKAGE_FOLDERS, "manifests", "examples", "tests", "docs", "benchmarks", ".ci", ".types"}
MAX_LINES = 400


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


TRACKED = _tracked()
SOURCES = [path for path in TRACKED if path.suffix == ".py"]


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _in_source_folders(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] in PACKAGE_FOLDERS


def test_top_level_folders_are_the_agreed_ones():
    found = {path.relative_to(ROOT).parts[0] for path in TRACKED if len(path.relative_to(ROOT).parts) > 1}
    assert found - TOP_LEVEL == set()


def test_the_packages_on_disk_are_those_of_pyproject():
    folders = {path.parent for path in SOURCES if path.name == "__init__.py" and _in_source_folders(path)}
    on_disk = {"openmcp." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert on_disk == set(PYPROJECT["tool"]["setuptools"]["packages"])


def test_every_module_is_in_a_package():
    lost = [path for path in SOURCES if _in_source_folders(path) and not (path.parent / "__init__.py").exists()]
    assert [_shown(path) for path in lost if "templates" not in path.parts] == []


def test_type_checkers_see_every_top_level_package():
    links = {link.name: link.resolve() for link in (ROOT / ".types" / "openmcp").iterdir()}
    assert links == {name: ROOT / name for name in PACKAGE_FOLDERS if (ROOT / name).is_dir()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel built from a copy of what is tracked."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for path in TRACKED:
        if _in_source_folders(path) or path.parent == ROOT:
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    build = "import sys, setuptools.build_meta as build; build.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, out], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module_and_template(wheel):
    wanted = {f"openmcp/{_shown(path)}" for path in TRACKED if _in_source_folders(path)}
    assert wanted - wheel == set()


def test_the_wheel_installs_nothing_beside_openmcp(wheel):
    assert {name.partition("/")[0] for name in wheel} == {"openmcp", "openmcp-0.1.0.dist-info"}


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_nothing_imports_a_package_by_its_bare_name():
    guilty = {_shown(path): _imported(ast.parse(path.read_bytes())) & set(PACKAGE_FOLDERS) for path in SOURCES}
    assert {path: names for path, names in guilty.items() if names} == {}


SUPPRESSION = re.compile(
    r"# *(?:noqa\b(?:: *[A-Z0-9]+(?:, *[A-Z0-9]+)*)?|type: *ignore(?:\[[^\]]*\])?|pragma: no cover)(?P<reason>.*)"
)


def _without_reason(text: str) -> list[str]:
    found = [(line, SUPPRESSION.search(line)) for line in text.splitlines()]
    return [line.strip() for line, match in found if match and len(re.findall(r"\w\w+", match["reason"])) < 2]


def test_what_counts_as_a_reason():
    bare = "# no" + "qa: S104", "# type: ig" + "nore[attr-defined]", "# no" + "qa", "# no" + "qa: S104 - why"
    good = "# no" + "qa: S104 - compared with, not bound to", "# type: ig" + "nore[misc]  # the stubs lack it"
    assert [_without_reason(f"x = 1  {comment}") for comment in bare] == [[f"x = 1  {comment}"] for comment in bare]
    assert [_without_reason(f"x = 1  {comment}") for comment in good] == [[], []]


def test_every_suppression_says_why():
    guilty = {_shown(path): _without_reason(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: lines for path, lines in guilty.items() if lines} == {}


SKIPS = ("pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail", "pytest.skip", "pytest.importorskip")


def _bare_skips(tree: ast.AST) -> list[int]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in SKIPS]
    called = {id(call.func) for call in calls}
    unsaid = [
        call.lineno
        for call in calls
        if not any(keyword.arg == "reason" for keyword in call.keywords)
        and not (ast.unparse(call.func) == "pytest.skip" and call.args)
    ]
    marks = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in called)
    return unsaid + [mark.lineno for mark in marks if ast.unparse(mark) in SKIPS]


def test_every_skipped_test_says_why():
    code = (
        '@pytest.mark.skip\ndef a(): pytest.skip()\n@pytest.mark.xfail(True)\n@pytest.mark.skip(reason="x")\ndef b(): 0'
    )
    assert sorted(_bare_skips(ast.parse(code))) == [1, 2, 3]
    guilty = {_shown(path): _bare_skips(ast.parse(path.read_bytes())) for path in SOURCES}
    assert {path: lines for path, lines in guilty.items() if lines} == {}


def test_source_files_are_short():
    lengths = {_shown(path): len(path.read_bytes().splitlines()) for path in SOURCES if _in_source_folders(path)}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


# Folders of one machine, and registries that are somebody's mirror elsewhere. In pieces: this file is tracked too.
MACHINE_WORDS = [
    "".join(pieces)
    for pieces in (
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("pypi", ".org"),
        ("python", "hosted.org"),
        ("registry.", "npmjs.org"),
        ("proxy.", "golang.org"),
        ("deb.", "debian.org"),
        ("repo1.", "maven.org"),
    )
]


def test_no_file_names_a_machine_or_a_registry():
    guilty = {
        _shown(path): [word for word in MACHINE_WORDS if word.encode() in data]
        for path in TRACKED
        for data in (path.read_bytes(),)
    }
    assert {path: words for path, words in guilty.items() if words} == {}


def test_imports_keep_to_their_layers():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_version_is_said_once_more_and_alike():
    assert version("openmcp") == VERSION
