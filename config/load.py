"""From a file or a folder of files to a configuration."""

import os
from pathlib import Path

import msgspec

from openmcp.config.cursor import At
from openmcp.config.documents import API_VERSION, configuration
from openmcp.config.model import Configuration, KubernetesOrigin
from openmcp.config.objects import ours
from openmcp.config.placeholders import MARK, tell_placeholders
from openmcp.config.problems import ConfigurationError, Mark, Problem, Report, in_order
from openmcp.config.yamlsource import read

MAX_BYTES = 16 * 1024 * 1024
"""Of one file."""


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that may be used, and what is odd about it."""

    configuration: Configuration
    warnings: tuple[Problem, ...] = ()
    base: tuple[At, ...] = ()
    """The documents themselves, where objects of Kubernetes are to be added to them."""
    closed: str = ""
    """Why nothing may pass now; empty where it may."""


def load(path: Path, namespace: str | None = None) -> Loaded:
    """Read `gateway.yaml`, or all `*.yaml` and `*.yml` of a folder in the order of their names.

    Of objects of Kubernetes those of `namespace` count alone, where it is given. Raises `ConfigurationError` with every
    problem, also where a file cannot be read. Blocks while reading.
    """
    report = Report()
    documents: list[At] = []
    for file in _files(path, report):
        documents += read_documents(file, report)
    if not documents and not report.errors:
        report.error(Mark(str(path)), "", "empty", f"begin with apiVersion: {API_VERSION}; `openmcp init` writes one")
    documents = ours(documents, report, namespace)
    made = configuration(documents, report)
    warnings = in_order(report.warnings)
    if made is None or report.errors:
        raise ConfigurationError(in_order(report.errors), warnings)
    base = tuple(documents) if isinstance(made.source, KubernetesOrigin) else ()
    return Loaded(made, tuple(warnings), base)


def source_files(path: Path) -> list[Path]:
    """The files that make up the configuration at `path` now. Raises OSError where a folder cannot be listed."""
    if not path.is_dir():
        return [path]
    found = [entry for entry in path.iterdir() if entry.suffix in (".yaml", ".yml")]
    return sorted(entry for entry in found if not entry.name.startswith("."))


def _files(path: Path, report: Report) -> list[Path]:
    try:
        files = source_files(path)
    except OSError as error:
        report.error(Mark(str(path)), "", f"cannot be read: {error.strerror}")
        return []
    if not files:
        report.error(Mark(str(path)), "", "no file named *.yaml or *.yml in this folder")
    return files


def read_documents(file: Path, report: Report, to_begin: str = "`openmcp init` writes one to begin with") -> list[At]:
    """The documents of one YAML file; what is wrong with it goes to `report`. Blocks while reading.

    `to_begin` is the hint where there is no such file."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        report.error(Mark(str(file)), "", "no such file", to_begin)
        return []
    except OSError as error:
        report.error(Mark(str(file)), "", f"cannot be read: {error.strerror}")
        return []
    if len(data) > MAX_BYTES:
        report.error(Mark(str(file)), "", f"larger than {MAX_BYTES // 1024**2} MiB")
        return []
    base = os.path.dirname(str(file))
    documents = [At(node, node.mark, "", base, report) for node in read(data, str(file), report)]
    if MARK.encode() in data:
        for document in documents:
            tell_placeholders(document)
    return documents
