"""Servers that are programs: what is wrong with `stdio`, and what cannot stand beside it."""

from openmcp.config.model import ProcessLimits, Secret, Stdio
from tests.config.sources import check, errors, good, warnings

HEAD = "servers:\n  - name: s\n"
POLICY = (
    "identity: {agents: [{type: none}]}\npolicies: [{name: p, servers: [s], requests: [{name: r, action: allow}]}]\n"
)


def stdio(text: str, more: str = "") -> str:
    """A server with `stdio` on line 4."""
    return f"{HEAD}    stdio: {text}\n{more}{POLICY}"


@check(
    {
        "neither": (
            f"{HEAD}{POLICY}",
            "3: servers[0]: `endpoints` is required (or `stdio`, where the server is a program of this machine)",
        ),
        "both": (
            stdio("{command: x}", '    endpoints: ["http://h/"]\n'),
            "4: servers[0].stdio: a server has `endpoints` or `stdio`, not both",
        ),
        "auth": (
            stdio("{command: x}", "    auth: {type: none}\n    tls: {serverName: x}\n    transport: http\n"),
            "5: servers[0].auth: has no meaning with `stdio` (the server gets its secrets in stdio.env: remove it)",
            "6: servers[0].tls: has no meaning with `stdio` (the server gets its secrets in stdio.env: remove it)",
            "7: servers[0].transport: has no meaning with `stdio` (remove it)",
        ),
        "no command": (stdio("{args: [x]}"), "4: servers[0].stdio: `command` is required"),
        "a number": (
            stdio("{command: x, args: [1]}"),
            '4: servers[0].stdio.args[0]: expected text, found the number 1 (put it in quotes: "1")',
        ),
        "nul": (stdio('{command: x, args: ["a\\0"]}'), "4: servers[0].stdio.args[0]: must hold no NUL"),
        "variable": (
            stdio("{command: x, env: {A-B: x}}"),
            '4: servers[0].stdio.env: not a key that can stand here: "A-B" '
            "(the name of an environment variable: letters, digits and _)",
        ),
        "mark": (
            stdio("{command: x, env: {OPENMCP_PROCESS: x}}"),
            '4: servers[0].stdio.env: not a key that can stand here: "OPENMCP_PROCESS" '
            "(a name that is not ours: by this one we find what a server has started)",
        ),
        "files": (
            stdio("{command: x, limits: {openFiles: 3, disk: 1GiB}}"),
            "4: servers[0].stdio.limits.openFiles: must be between 16 and 1000000, found 3",
            '4: servers[0].stdio.limits: unknown key "disk" (known here: memory, openFiles, cpu)',
        ),
        "share": (
            stdio("{command: x, share: all}"),
            '4: servers[0].stdio.share: unknown share "all" (one of: session, server)',
        ),
    }
)
def test_what_is_wrong_is_said(text, expected):
    assert errors(text) == expected


def test_a_program_with_everything():
    text = stdio(
        "{command: ./bin/x, args: ['', a b], env: {A: '', B: {env: C}}, cwd: d, share: server, processes: 3, "
        "perAgent: 2, idle: 1m, limits: {memory: 1GiB, openFiles: 100, cpu: 10m}}"
    )
    (server,) = good(text).configuration.servers
    assert (server.path, server.endpoints) == ("/s", ())
    assert server.stdio == Stdio(
        command="bin/x",
        args=("", "a b"),
        env=(("A", ""), ("B", Secret(env="C"))),
        cwd="d",
        share="server",
        processes=3,
        per_agent=2,
        idle=60.0,
        limits=ProcessLimits(memory=1 << 30, open_files=100, cpu=600.0),
    )


def test_a_command_line_in_one_text_is_warned_of():
    assert warnings(stdio("{command: npx -y server}")) == [
        '4: servers[0].stdio.command: no shell reads this: the program is called "npx -y server" '
        "(write arguments in `args`)"
    ]


def test_what_has_no_effect_beside_a_program_is_warned_of():
    more = "    health: {interval: 5s}\n    outliers: {failures: 3}\n    timeouts: {connect: 1s, request: 9s}\n"
    why = "has no effect with `stdio` (there is nothing to connect to: remove it)"
    assert warnings(stdio("{command: x}", more)) == [
        f"5: servers[0].health: {why}",
        f"6: servers[0].outliers: {why}",
        f"7: servers[0].timeouts.connect: {why}",
    ]
