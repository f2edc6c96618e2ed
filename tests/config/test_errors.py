"""Each mistake has a message of its own: keys, YAML, types, files."""

import json

import msgspec
import pytest

from openmcp.config import ConfigurationError
from tests.config.sources import check, errors, outcome, rule, server, single


@check(
    {
        "unknown section": ("polices: []", '2: unknown key "polices" (did you mean "policies"?)'),
        "far from anything": (
            "zzz: 1",
            '2: unknown key "zzz" (known here: apiVersion, listen, identity, sessions, telemetry, approvals, '
            "state, source, servers, policies)",
        ),
        "snake case": (
            server("require_auth: true"),
            '4: servers[0]: unknown key "require_auth" (did you mean "requireAuth"?)',
        ),
        "inner": (
            server("timeouts: {conect: 5s}"),
            '4: servers[0].timeouts: unknown key "conect" (did you mean "connect"?)',
        ),
        "key with a line break": (
            '"a\\nb": 1',
            '2: unknown key "a\N{REPLACEMENT CHARACTER}b" (known here: apiVersion, listen, identity, sessions, '
            "telemetry, approvals, state, source, servers, policies)",
        ),
        "section that is no mapping": ("listen: [x]", "2: listen: expected a mapping, found a list"),
        "section left empty": ("listen:\n", "2: listen: expected a mapping, found nothing"),
        "list left empty": ("servers:\n", "2: servers: expected a list, found nothing"),
        "list that is a mapping": ("servers: {name: x}", "2: servers: expected a list, found a mapping"),
        "entry that is text": ("servers: [x]", '2: servers[0]: expected a mapping, found the text "x"'),
        "required": (
            "servers:\n  - path: /x",
            "3: servers[0]: `name` is required",
            "3: servers[0]: `endpoints` is required (or `stdio`, where the server is a program of this machine)",
        ),
        "entry that is null": ("servers:\n  -", "3: servers[0]: expected a mapping, found nothing"),
    }
)
def test_keys_and_shapes(text, expected):
    assert errors(text) == expected


@check(
    {
        "duplicate": ("listen: {}\nlisten: {}", '3: duplicate key "listen" (first at line 2)'),
        "duplicate inside": (
            server("path: /a\n    path: /b"),
            '5: servers[0]: duplicate key "path" (first at line 4)',
        ),
        "alias": (
            rule("{name: r, action: allow, tools: [*all]}"),
            "5: policies[0].requests[0].tools[0]: the alias *all is not supported "
            '(to mean the text, put it in quotes: "*all")',
        ),
        "alias for a whole value": (
            "servers: [{name: s, endpoints: *urls}]",
            '2: servers[0].endpoints: the alias *urls is not supported (to mean the text, put it in quotes: "*urls")',
        ),
        "anchor": (
            server("path: &here /x"),
            "4: servers[0].path: the anchor &here is not supported (write the value out where it is wanted; "
            'to mean the text, put it in quotes: "&here")',
        ),
        "merge": (server("<<: {path: /x}"), "4: servers[0]: merge keys (<<) are not supported (write the keys out)"),
        "tag": (
            server("path: !!str /x"),
            "4: servers[0].path: the tag tag:yaml.org,2002:str is not supported "
            "(a value in quotes is text, one without is what it looks like)",
        ),
        "custom tag": (
            server("path: !env X"),
            "4: servers[0].path: the tag !env is not supported "
            "(a value in quotes is text, one without is what it looks like)",
            '4: servers[0].path: not a path: "X" (a path begins with /: "/X")',
        ),
        "star without quotes": (
            rule("{name: r, action: allow, tools: [*]}"),
            "5: not valid YAML: while scanning an alias did not find expected alphabetic or numeric character "
            '(a glob that begins with * needs quotes: "*")',
        ),
        "tab": (
            "listen:\n\tmcp: x",
            "3: not valid YAML: while scanning for the next token found character that cannot start any token "
            "(indent with spaces, not tabs; a value that begins with @, % or ` needs quotes)",
        ),
        "colon in text": (
            "listen: a: b",
            "2: not valid YAML: mapping values are not allowed in this context (a value that holds a colon and a "
            "blank needs quotes; the keys of one mapping begin in one column)",
        ),
        "key that is a list": ("? [a]\n: b", "2: a key must be text"),
        "nesting": (
            "listen: {mcp: " + "[" * 40 + "]" * 40 + "}",
            "2: nested deeper than 32 levels",
        ),
        "tab within": (
            "listen:\n    admin: y\n\tmcp: x",
            "4: not valid YAML: while scanning a plain scalar (from line 3 on) found a tab character that violates "
            "indentation (indent with spaces, not tabs)",
        ),
        "columns": (
            "listen:\n  mcp: x\n admin: y",
            "4: not valid YAML: while parsing a block mapping (from line 1 on) did not find expected key (the keys of "
            "one mapping, and the dashes of one list, begin in one column; behind a quote nothing follows)",
        ),
        "not closed": (
            "listen: {mcp: x\nservers: []",
            "3: not valid YAML: while parsing a flow mapping (from line 2 on) did not find expected ',' or '}' (commas "
            "stand between what is in [ ] and { }, and each is closed)",
        ),
        "quote not closed": (
            "listen: {mcp: 'x}\nservers: []",
            "3: not valid YAML: while scanning a quoted scalar (from line 2 on) found unexpected end of stream "
            "(a quote is not closed)",
        ),
        "backslash": (
            'listen: {mcp: "\\d"}',
            "2: not valid YAML: while parsing a quoted scalar found unknown escape character (a text with a backslash "
            "stands in single quotes: '[0-9]+\\.txt')",
        ),
    }
)
def test_yaml(text, expected):
    assert errors(text) == expected


def test_nesting_without_end_is_refused_at_once():
    """libyaml's time grows with the square of the depth: all of this would take more than an hour."""
    assert errors("listen: " + "[" * 1_000_000) == ["2: nested deeper than 32 levels"]


@check(
    {
        "no unit": (
            server("timeouts: {connect: 5}"),
            "4: servers[0].timeouts.connect: a duration needs a unit, found 5 (one of ms, s, m, h: 30s)",
        ),
        "unknown unit": (
            server("timeouts: {connect: 5sec}"),
            '4: servers[0].timeouts.connect: unknown unit "sec" (one of ms, s, m, h: 30s)',
        ),
        "capital unit": (
            server("timeouts: {connect: 5S}"),
            '4: servers[0].timeouts.connect: unknown unit "S" (did you mean "s"?)',
        ),
        "two units": (
            server("timeouts: {connect: 1h30m}"),
            '4: servers[0].timeouts.connect: not a duration: "1h30m" (a whole number and one of ms, s, m, h: 30s)',
        ),
        "fraction": (
            server("timeouts: {connect: 1.5s}"),
            '4: servers[0].timeouts.connect: not a duration: "1.5s" (a whole number and one of ms, s, m, h: 30s)',
        ),
        "zero": (server("timeouts: {connect: 0s}"), "4: servers[0].timeouts.connect: must be more than 0"),
        "nothing": (
            server("timeouts: {connect: }"),
            "4: servers[0].timeouts.connect: expected a duration such as 30s, found nothing",
        ),
        "boolean": (
            server("timeouts: {connect: true}"),
            "4: servers[0].timeouts.connect: expected a duration such as 30s, found the boolean true",
        ),
        "size without unit": (
            server("limits: {requestBytes: 100}"),
            "4: servers[0].limits.requestBytes: a size needs a unit, found 100 (one of B, KiB, MiB, GiB: 64KiB)",
        ),
        "decimal unit": (
            server("limits: {requestBytes: 4MB}"),
            '4: servers[0].limits.requestBytes: unknown unit "MB" (did you mean "MiB"?)',
        ),
        "size zero": (
            server("limits: {responseBytes: 0MiB}"),
            "4: servers[0].limits.responseBytes: must be more than 0",
        ),
        "size as list": (
            server("limits: {responseBytes: [4MiB]}"),
            "4: servers[0].limits.responseBytes: expected a size such as 64KiB, found a list",
        ),
    }
)
def test_amounts(text, expected):
    assert errors(text) == expected


@check(
    {
        "yes": (
            server("requireAuth: yes"),
            '4: servers[0].requireAuth: expected true or false, found the text "yes" (write true)',
        ),
        "one": (server("requireAuth: 1"), "4: servers[0].requireAuth: expected true or false, found the number 1"),
        "count as text": (
            server("limits: {inFlight: many}"),
            '4: servers[0].limits.inFlight: expected a whole number, found the text "many"',
        ),
        "count as boolean": (
            server("limits: {inFlight: true}"),
            "4: servers[0].limits.inFlight: expected a whole number, found the boolean true",
        ),
        "count as fraction": (
            server("limits: {inFlight: 1.5}"),
            "4: servers[0].limits.inFlight: expected a whole number, found the number 1.5",
        ),
        "count without end": (
            server(f"limits: {{inFlight: {'9' * 5000}}}"),
            f'4: servers[0].limits.inFlight: expected a whole number, found the text "{"9" * 57}..."',
        ),
        "count in quotes": (
            server("limits: {inFlight: '7'}"),
            '4: servers[0].limits.inFlight: expected a whole number, found the text "7"',
        ),
        "boolean in quotes": (
            server('requireAuth: "true"'),
            '4: servers[0].requireAuth: expected true or false, found the text "true"',
        ),
        "count out of bounds": (
            server("limits: {inFlight: 0}"),
            "4: servers[0].limits.inFlight: must be between 1 and 1000000, found 0",
        ),
        "number for text": (
            rule("{name: r, action: allow, tools: [1]}"),
            '5: policies[0].requests[0].tools[0]: expected text, found the number 1 (put it in quotes: "1")',
        ),
        "nothing for text": (
            rule("{name: r, action: allow, tools: [~]}"),
            "5: policies[0].requests[0].tools[0]: expected text, found nothing",
        ),
        "empty text": (
            rule('{name: r, action: deny, message: " "}'),
            "5: policies[0].requests[0].message: must not be empty",
        ),
        "control characters": (
            rule('{name: r, action: deny, message: "a\\e[2J"}'),
            "5: policies[0].requests[0].message: must be one line without control characters, "
            'found "a\N{REPLACEMENT CHARACTER}[2J"',
        ),
        "text for list": (
            rule('{name: r, action: deny, tools: "delete_*"}'),
            '5: policies[0].requests[0].tools: expected a list, found the text "delete_*" (write ["delete_*"])',
        ),
        "choice": (
            rule("{name: r, action: alow}"),
            '5: policies[0].requests[0].action: unknown action "alow" (did you mean "allow"?)',
        ),
        "choice far off": (
            "telemetry: {logLevel: loud}",
            '2: telemetry.logLevel: unknown logLevel "loud" (one of: debug, info, warning, error)',
        ),
        "failure choice": (
            "telemetry: {audit: {onFailure: ignore}}",
            '2: telemetry.audit.onFailure: unknown onFailure "ignore" (one of: deny, allow)',
        ),
        "output": (
            "telemetry: {audit: {output: audit.jsonl}}",
            '2: telemetry.audit.output: expected stdout or {file: PATH}, found the text "audit.jsonl"',
        ),
    }
)
def test_types(text, expected):
    assert errors(text) == expected


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        ({}, "gateway.yaml", ["gateway.yaml: no such file (`openmcp init` writes one to begin with)"]),
        ({"d/readme.txt": ""}, "d", ["d: no file named *.yaml or *.yml in this folder"]),
        (
            {"gateway.yaml": "# nothing\n---\n"},
            "gateway.yaml",
            ["gateway.yaml: empty (begin with apiVersion: openmcp.dev/v1alpha1; `openmcp init` writes one)"],
        ),
        (
            {"gateway.yaml": "- a"},
            "gateway.yaml",
            ["gateway.yaml:1: expected a mapping, found a list (begin with apiVersion: openmcp.dev/v1alpha1)"],
        ),
        (
            {"gateway.yaml": "\nservers: []"},
            "gateway.yaml",
            ["gateway.yaml:2: `apiVersion` is required (write apiVersion: openmcp.dev/v1alpha1)"],
        ),
        (
            {"gateway.yaml": "apiVersion: v1"},
            "gateway.yaml",
            ['gateway.yaml:1: apiVersion: unknown apiVersion "v1" (write openmcp.dev/v1alpha1)'],
        ),
        (
            {"gateway.yaml": b"a: 1\nb: \xff\n"},
            "gateway.yaml",
            ["gateway.yaml:2: not UTF-8 text (save the file in UTF-8)"],
        ),
        (
            {"gateway.yaml": b"a: \x00"},
            "gateway.yaml",
            ["gateway.yaml: not valid YAML: unacceptable character #x0000: control characters are not allowed"],
        ),
    ],
)
def test_files(files, path, expected):
    found = outcome(files, path)
    assert isinstance(found, ConfigurationError)
    assert [str(problem) for problem in found.problems] == expected


def test_all_errors_come_at_once_in_the_order_of_the_lines():
    found = errors(
        """
        servers:
          - name: zendesk
            auth: {type: spifee}
            timeouts: {connect: 5, request: 0s}
        polices: []
        policies:
          - {name: p, servers: [zendesk], mode: shade, requests: [{name: r, action: alow}]}
        listen: {mcp: 1}
        """
    )
    assert [line.partition(" ")[0] for line in found] == ["3:", "4:", "5:", "5:", "6:", "8:", "8:", "9:"]


def test_a_problem_as_json():
    found = single("polices: []")
    assert isinstance(found, ConfigurationError)
    assert json.loads(msgspec.json.encode(found.problems)) == [
        {
            "file": "gateway.yaml",
            "line": 2,
            "path": "",
            "message": 'unknown key "polices"',
            "hint": 'did you mean "policies"?',
        }
    ]
