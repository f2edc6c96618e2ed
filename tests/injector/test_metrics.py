"""What the injector counts, and that the documentation says so."""

import re
from pathlib import Path

from openmcp.injector.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "injector.md"


def all_of_them():
    metrics = Metrics("1.2.3")
    metrics.admission("injected", 0.003)
    metrics.tls_refused("no TLS")
    metrics.status_written("ok")
    metrics.leading("openmcp-status", lambda: True)
    metrics.certificate(lambda: 1_800_000_000.0, lambda: 2)
    metrics.trusted(lambda: True)
    metrics.objects(lambda: {("MCPPolicy", "refused"): 3})
    lines = metrics.exposition().decode().splitlines()
    ours = [line for line in lines if line.startswith("openmcp_") and "_created" not in line]
    return [line for line in ours if not line.endswith(" 0.0")]


def test_what_is_exported():
    assert [line for line in all_of_them() if "_bucket" not in line] == [
        'openmcp_injector_admissions_total{result="injected"} 1.0',
        "openmcp_injector_admission_duration_seconds_count 1.0",
        "openmcp_injector_admission_duration_seconds_sum 0.003",
        'openmcp_injector_tls_refused_total{reason="no TLS"} 1.0',
        'openmcp_injector_status_writes_total{result="ok"} 1.0',
        'openmcp_build_info{version="1.2.3"} 1.0',
        "openmcp_injector_certificate_expires_seconds 1.8e+09",
        "openmcp_injector_certificates_taken_total 2.0",
        "openmcp_injector_ca_trusted 1.0",
        'openmcp_injector_leader{lease="openmcp-status"} 1.0',
        'openmcp_injector_objects{kind="MCPPolicy",state="refused"} 3.0',
    ]


def test_the_documentation_names_each_with_its_labels():
    exported = {
        (re.sub(r"_(bucket|count|sum)$", "", line.partition("{")[0].partition(" ")[0]), labels(line))
        for line in all_of_them()
        if line.startswith("openmcp_injector_")
    }
    told = {
        (name, tuple(given.split(",")) if given else ())
        for name, given in re.findall(
            r"^\| `(\w+)(?:\{([\w,]+)\})?` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {name: given for name, given in exported} == {name: given for name, given in told}


def labels(line):
    return tuple(name for name in re.findall(r'(\w+)="', line) if name != "le")
