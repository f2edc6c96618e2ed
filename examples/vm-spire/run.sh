#!/usr/bin/env bash
# Two machines played on one: a VM with the gateway and an agent, another one with an MCP server; a SPIRE server, and a
# SPIRE agent for each machine. Everything listens on loopback, lies in a folder that is removed, and ends with this.
#
# Needs spire-server and spire-agent (on the PATH, or in the folder $SPIRE_BIN), openmcp and, for server and agent,
# `pip install 'mcp>=2.3,<3'`. No root. Ports: $SPIRE_PORT, $SERVER_PORT (the one in gateway.yaml).
set -euo pipefail
cd "$(dirname "$0")"
PATH=${SPIRE_BIN:+$SPIRE_BIN:}$PATH
export SPIRE_PORT=${SPIRE_PORT:-18081}
server_port=${SERVER_PORT:-9443}
gateway=${GATEWAY:-http://127.0.0.1:15001/tickets}
ready=${READY:-http://127.0.0.1:15020/readyz}
patience=60 # seconds for each thing that is waited for

for needed in spire-server spire-agent openmcp python; do
  command -v "$needed" >/dev/null || { echo "$needed is not on the PATH (see README.md)" >&2; exit 3; }
done

WORK=$(mktemp -d "${TMPDIR:-/tmp}/vm-spire.XXXXXX") # short: the path of a Unix socket has at most 107 bytes
export WORK
started=()
stop() { # a process that was started here: asked to end, and ended if it does not
  local until=$((SECONDS + 30))
  kill "$1" 2>/dev/null || return 0
  while kill -0 "$1" 2>/dev/null; do
    ((SECONDS < until)) || kill -KILL "$1"
    sleep 0.1
  done
}
finish() {
  local status=$? one
  trap - EXIT
  for ((one = ${#started[@]} - 1; one >= 0; one--)); do
    stop "${started[one]}"
  done
  if ((status != 0)); then
    tail -n 20 "$WORK"/*.log >&2 || true
  fi
  rm -rf "$WORK"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

start() { # name, command...: in the background, what it prints into a log
  "${@:2}" >"$WORK/$1.log" 2>&1 &
  started+=($!)
}
until_it_works() { # what, command...
  local until=$((SECONDS + patience))
  while ! "${@:2}" >/dev/null 2>&1; do
    ((SECONDS < until)) || { echo "$1: not within $patience seconds" >&2; exit 1; }
    sleep 0.2
  done
}
spire() { spire-server "$@" -socketPath "$WORK/spire-server.sock"; }

echo "== a SPIRE server"
umask 0027
mkdir "$WORK/spire-server" "$WORK/vm" "$WORK/tools"
start spire-server spire-server run -expandEnv -config spire/server.conf
until_it_works "the SPIRE server" spire healthcheck
spire bundle show -format pem >"$WORK/bundle.pem"

echo "== registration entries"
# Here everything runs as one user, so programs tell the gateway from the agent: the gateway is Python, the agent has
# `spire-agent api fetch` ask for it. On a VM of your own they are different users, see entries.sh.
user=unix:uid:$(id -u)
OPENMCP_SELECTORS="$user unix:path:$(readlink -f "$(python -c 'import sys; print(sys.executable)')")" \
  BOT_SELECTORS="$user unix:path:$(readlink -f "$(command -v spire-agent)")" TICKETS_SELECTORS=$user \
  bash entries.sh spiffe://example.org/machines/vm spiffe://example.org/machines/tools \
  -socketPath "$WORK/spire-server.sock" | sed -n 's/^SPIFFE ID *: /   /p'

echo "== a SPIRE agent for each machine"
for machine in vm tools; do
  token=$(spire token generate -spiffeID "spiffe://example.org/machines/$machine" | sed 's/^Token: //')
  MACHINE=$machine start "$machine" spire-agent run -expandEnv -config spire/agent.conf -joinToken "$token"
  until_it_works "the SPIRE agent of $machine" spire-agent healthcheck -socketPath "$WORK/$machine.sock"
done

echo "== the MCP server, which takes calls from spiffe://example.org/openmcp alone"
SPIFFE_ENDPOINT_SOCKET=unix://$WORK/tools.sock \
  start server python server.py "$server_port" spiffe://example.org/openmcp
until_it_works "the MCP server" bash -c "exec 3<>/dev/tcp/127.0.0.1/$server_port"

echo "== openmcp run"
SPIFFE_ENDPOINT_SOCKET=unix://$WORK/vm.sock start openmcp openmcp run -c gateway.yaml
until_it_works "the gateway" python -c "import urllib.request as u; u.urlopen('$ready', timeout=2)"

echo "== the agent has SPIRE say who it is, and calls through the gateway"
fetch_token() {
  spire-agent api fetch jwt -socketPath "$WORK/vm.sock" -audience openmcp -output json
}
until_it_works "the agent's JWT-SVID" fetch_token
TOKEN=$(fetch_token | python -c 'import json, sys; print(json.load(sys.stdin)[0]["svids"][0]["svid"])')
TOKEN=$TOKEN python agent.py "$gateway"

echo "== the agent goes around the gateway"
python agent.py around "https://127.0.0.1:$server_port/mcp"

echo "== what the record says"
python - "$WORK/openmcp.log" <<'RECORD'
import json, sys

for line in open(sys.argv[1], encoding="utf-8"):
    entry = json.loads(line) if line.startswith("{") else {}
    if entry.get("method") == "tools/call" and "decision" in entry:
        print("  ", *(entry.get(key) for key in ("agent", "identified_by", "name", "decision")))
RECORD
echo "== done"
