"""Each mistake has a message of its own: what the rules of a policy may hold."""

from tests.config.sources import check, errors, rule


def allow(keys: str) -> str:
    """A rule that allows, with these keys on line 5."""
    return rule(f"{{name: r, action: allow, {keys}}}")


def approve(keys: str) -> str:
    """A rule that requires approval, with these keys on line 5."""
    return rule(f"{{name: r, action: requireApproval, {keys}}}")


def response(rules: str) -> str:
    """A policy with these response rules on line 5."""
    return f"policies:\n  - {{name: p, servers: [s], responses: [\n    # the rules\n    {rules}]}}\n"


def agent(selector: str) -> str:
    """A policy for this agent, on line 2."""
    return f"policies: [{{name: p, servers: [s], agents: [{selector}]}}]"


@check(
    {
        "no list": (allow("when: {}"), "5: policies[0].requests[0].when: expected a list, found a mapping"),
        "no path": (
            allow("when: [{}]"),
            "5: policies[0].requests[0].when[0]: `path` is required",
            "5: policies[0].requests[0].when[0]: `op` is required",
        ),
        "unknown operator": (
            allow("when: [{path: $.a, op: equals, value: 1}]"),
            '5: policies[0].requests[0].when[0].op: unknown op "equals" (one of: eq, ne, in, notIn, matches, '
            "glob, lt, lte, gt, gte, exists, absent, cidr, lengthAtMost)",
        ),
        "operator misspelt": (
            allow("when: [{path: $.a, op: not_in, value: 1}]"),
            '5: policies[0].requests[0].when[0].op: unknown op "not_in" (did you mean "notIn"?)',
        ),
        "a path that is none": (
            allow("when: [{path: '$.a[?(@.b)]', op: exists}]"),
            '5: policies[0].requests[0].when[0].path: not a JSONPath: "$.a[?(@.b)]" (filters, [?(...)], are '
            "not part of the grammar: use more than one condition)",
        ),
        "path and value": (
            allow("when: [{path: $., op: lt, value: x}]"),
            '5: policies[0].requests[0].when[0].path: not a JSONPath: "$." (it ends too early)',
            '5: policies[0].requests[0].when[0].value: expected a number, found the text "x"',
        ),
        "exists with a value": (
            allow("when: [{path: $.a, op: exists, value: 1}]"),
            "5: policies[0].requests[0].when[0].value: `op: exists` takes no value",
        ),
        "absent with a value": (
            allow("when: [{path: $.a, op: absent, value: true}]"),
            "5: policies[0].requests[0].when[0].value: `op: absent` takes no value",
        ),
        "no value": (
            allow("when: [{path: $.a, op: eq}]"),
            "5: policies[0].requests[0].when[0]: `value` is required with `op: eq`",
        ),
        "value left empty": (
            allow("when: [{path: $.a, op: eq, value: }]"),
            "5: policies[0].requests[0].when[0].value: expected a value, found nothing (write null to "
            'compare with null, "" for the empty text)',
        ),
        "eq with a list": (
            allow("when: [{path: $.a, op: eq, value: [1]}]"),
            "5: policies[0].requests[0].when[0].value: expected a text, a number, true, false or null, found a list",
        ),
        "in nothing": (
            allow("when: [{path: $.a, op: in, value: []}]"),
            "5: policies[0].requests[0].when[0].value: an empty list (no value is in an empty list: write "
            "one, or remove the condition)",
        ),
        "list in a list": (
            allow("when: [{path: $.a, op: notIn, value: [1, [1]]}]"),
            "5: policies[0].requests[0].when[0].value[1]: expected a text, a number, true, false or null, found a list",
        ),
        "lt with text": (
            allow("when: [{path: $.a, op: lt, value: '5'}]"),
            '5: policies[0].requests[0].when[0].value: expected a number, found the text "5"',
        ),
        "gte with a boolean": (
            allow("when: [{path: $.a, op: gte, value: true}]"),
            "5: policies[0].requests[0].when[0].value: expected a number, found the boolean true",
        ),
        "matches look-ahead": (
            allow("when: [{path: $.a, op: matches, value: '(?=x)'}]"),
            '5: policies[0].requests[0].when[0].value: RE2 refuses the pattern "(?=x)" (look-ahead and '
            "look-behind, (?=, are not part of RE2)",
        ),
        "matches a number": (
            allow("when: [{path: $.a, op: matches, value: 5}]"),
            '5: policies[0].requests[0].when[0].value: expected text, found the number 5 (put it in quotes: "5")',
        ),
        "glob with a list": (
            allow("when: [{path: $.a, op: glob, value: [a]}]"),
            "5: policies[0].requests[0].when[0].value: expected text, found a list",
        ),
        "network with host bits": (
            allow("when: [{path: $.a, op: cidr, value: 10.0.0.1/8}]"),
            '5: policies[0].requests[0].when[0].value: not a network: "10.0.0.1/8" has bits behind its '
            "prefix (write 10.0.0.0/8, or 10.0.0.1)",
        ),
        "one of two networks": (
            allow("when: [{path: $.a, op: cidr, value: [10.0.0.1, nets]}]"),
            '5: policies[0].requests[0].when[0].value[1]: not a network: "nets" (write an address and a '
            "prefix: 10.0.0.0/8, 2001:db8::/32)",
        ),
        "network of a number": (
            allow("when: [{path: $.a, op: cidr, value: 10}]"),
            '5: policies[0].requests[0].when[0].value: expected text, found the number 10 (put it in quotes: "10")',
        ),
        "negative length": (
            allow("when: [{path: $.a, op: lengthAtMost, value: -1}]"),
            "5: policies[0].requests[0].when[0].value: must be between 0 and 1000000000, found -1",
        ),
        "length with a fraction": (
            allow("when: [{path: $.a, op: lengthAtMost, value: 1.5}]"),
            "5: policies[0].requests[0].when[0].value: expected a whole number, found the number 1.5",
        ),
        "key misspelt": (
            allow("when: [{path: $.a, op: eq, valu: 1}]"),
            '5: policies[0].requests[0].when[0]: unknown key "valu" (did you mean "value"?)',
            "5: policies[0].requests[0].when[0]: `value` is required with `op: eq`",
        ),
    }
)
def test_conditions(text, expected):
    assert errors(text) == expected


@check(
    {
        "unknown detector": (
            allow("detect: [creditcard]"),
            '5: policies[0].requests[0].detect[0]: unknown detector "creditcard" (did you mean "credit_card"?)',
        ),
        "detector far from any": (
            allow("detect: [zzz]"),
            '5: policies[0].requests[0].detect[0]: unknown detector "zzz" (one of: credit_card, us_ssn, '
            "email, phone, iban, aws_key, private_key, jwt, github_token, slack_token, ipv4_private, "
            "hidden_text)",
        ),
        "no detector": (
            allow("detect: []"),
            "5: policies[0].requests[0].detect: an empty list (it looks for nothing: remove the key or fill it)",
        ),
        "no pattern": (
            allow("patterns: []"),
            "5: policies[0].requests[0].patterns: an empty list (it looks for nothing: remove the key or fill it)",
        ),
        "pattern": (
            allow("patterns: ['(']"),
            '5: policies[0].requests[0].patterns[0]: RE2 refuses the pattern "(" (a ( is not closed)',
        ),
        "too large a pattern": (
            allow("patterns: ['\\pL{500}']"),
            '5: policies[0].requests[0].patterns[0]: RE2 refuses the pattern "\\pL{500}" (it needs too much '
            "memory: repeat less, or use smaller classes of characters)",
        ),
        "approval of an allow": (
            allow("approval: {workflow: w}"),
            "5: policies[0].requests[0].approval: `approval` has no meaning with `action: allow` (write "
            "action: requireApproval)",
        ),
    }
)
def test_request_rules(text, expected):
    assert errors(text) == expected


@check(
    {
        "no approval": (
            approve("message: x"),
            "5: policies[0].requests[0]: `approval` is required with `action: requireApproval` (write "
            "approval: {workflow: NAME})",
        ),
        "no workflow": (approve("approval: {}"), "5: policies[0].requests[0].approval: `workflow` is required"),
        "unknown workflow": (
            approve("approval: {workflow: w}"),
            '5: policies[0].requests[0].approval.workflow: no workflow is named "w" (approvals.workflows: '
            "there are none)",
        ),
        "duration": (
            approve("approval: {workflow: w, duration: 2h, maxDuration: 1h}"),
            "5: policies[0].requests[0].approval.duration: longer than `maxDuration` (the approver may "
            "choose up to maxDuration; duration is the default)",
        ),
        "paths": (
            approve("approval: {workflow: w, bind: ['$.'], show: a, maxUses: 0}"),
            '5: policies[0].requests[0].approval.bind[0]: not a JSONPath: "$." (it ends too early)',
            '5: policies[0].requests[0].approval.show: expected a list, found the text "a" (write ["a"])',
            "5: policies[0].requests[0].approval.maxUses: must be between 1 and 1000000, found 0",
        ),
    }
)
def test_approvals(text, expected):
    assert errors(text) == expected


@check(
    {
        "no action": (response("{name: r}"), "5: policies[0].responses[0]: `action` is required"),
        "looks for nothing": (
            response("{name: r, action: redact}"),
            "5: policies[0].responses[0]: the rule looks for nothing (write `detect`, `patterns` or `binary`)",
        ),
        "action of a request rule": (
            response("{name: r, action: deny, detect: [email]}"),
            '5: policies[0].responses[0].action: unknown action "deny" (one of: block, redact)',
        ),
        "path": (
            response("{name: r, action: block, paths: ['$..'], detect: [email]}"),
            '5: policies[0].responses[0].paths[0]: not a JSONPath: "$.." (it ends too early)',
        ),
        "size": (
            response("{name: r, action: block, binary: {over: 0B}}"),
            "5: policies[0].responses[0].binary.over: must be more than 0",
        ),
        "types": (
            response("{name: r, action: block, binary: {types: []}}"),
            "5: policies[0].responses[0].binary.types: an empty list (remove the key where every type counts)",
        ),
        "binary as boolean": (
            response("{name: r, action: block, binary: true}"),
            "5: policies[0].responses[0].binary: expected a mapping, found the boolean true",
        ),
        "except with binary alone": (
            response("{name: r, action: block, binary: {}, except: [x]}"),
            "5: policies[0].responses[0].except: `except` has no meaning without `detect` or `patterns` (it "
            "excepts texts that these find)",
        ),
        "except": (
            response("{name: r, action: block, detect: [email], except: ['(a']}"),
            '5: policies[0].responses[0].except[0]: RE2 refuses the pattern "(a" (a ( is not closed)',
        ),
        "empty lists": (
            response("{name: r, action: block, detect: [email], paths: [], except: []}"),
            "5: policies[0].responses[0].paths: an empty list (no place is in an empty list: remove the key "
            "where every place counts)",
            "5: policies[0].responses[0].except: an empty list (it excepts nothing: remove the key or fill it)",
        ),
        "empty selector": (
            response("{name: r, action: block, detect: [email], tools: []}"),
            "5: policies[0].responses[0].tools: an empty list (it selects nothing, while a rule without "
            "selectors holds for everything: remove the key or fill it)",
        ),
        "key misspelt": (
            response("{name: r, action: block, detect: [email], expect: ['a']}"),
            '5: policies[0].responses[0]: unknown key "expect" (did you mean "except"?)',
        ),
        "names": (
            response("{name: r, action: block, detect: [email]}, {name: r, action: block, detect: [email]}"),
            '5: policies[0].responses[1].name: duplicate rule name "r" (first at line 5)',
        ),
    }
)
def test_response_rules(text, expected):
    assert errors(text) == expected


@check(
    {
        "nothing": (
            agent("{}"),
            "2: policies[0].agents[0]: an empty mapping (write trustDomain, namespace, serviceAccount or "
            'claims, or the glob "*" for all)',
        ),
        "key misspelt": (
            agent("{trustdomain: x}"),
            '2: policies[0].agents[0]: unknown key "trustdomain" (did you mean "trustDomain"?)',
        ),
        "number": (
            agent("{namespace: 1}"),
            '2: policies[0].agents[0].namespace: expected text, found the number 1 (put it in quotes: "1")',
        ),
        "no claims": (
            agent("{claims: {}}"),
            "2: policies[0].agents[0].claims: an empty mapping (remove the key or fill it)",
        ),
        "claims as list": (agent("{claims: [a]}"), "2: policies[0].agents[0].claims: expected a mapping, found a list"),
        "claims": (
            agent("{claims: {a: 1, ' ': x}}"),
            '2: policies[0].agents[0].claims.a: expected text, found the number 1 (put it in quotes: "1")',
            '2: policies[0].agents[0].claims: not a key that can stand here: " " (text of one line, not empty)',
        ),
        "list": (agent("[]"), "2: policies[0].agents[0]: expected text, found a list"),
    }
)
def test_agents_by_their_parts(text, expected):
    assert errors(text) == expected
