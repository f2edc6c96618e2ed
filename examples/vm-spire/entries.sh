#!/usr/bin/env bash
# Registration entries: who on which machine gets which SPIFFE ID. Needs `spire-server`, on its machine.
#
#   entries.sh ID-OF-THE-VM ID-OF-THE-TOOLS-VM [OPTIONS OF spire-server, such as -socketPath]
#
# The IDs are those of the SPIRE agents there (`spire-server agent list`). Selectors are users, unless the environment
# says otherwise. All selectors of an entry have to hold.
set -euo pipefail
vm=$1 tools=$2
shift 2

openmcp=${OPENMCP_SELECTORS:-unix:user:openmcp}
bot=${BOT_SELECTORS:-unix:user:support-bot}
tickets=${TICKETS_SELECTORS:-unix:user:tickets}

entry() { # machine, path, selectors, options
  local machine=$1 path=$2 selectors=() one
  for one in $3; do selectors+=(-selector "$one"); done
  shift 3
  spire-server entry create -parentID "$machine" -spiffeID "spiffe://example.org$path" "${selectors[@]}" "$@"
}

# The gateway, and nothing else on its VM, has the ID that the MCP server accepts: an agent that goes around the gateway
# has nothing to show. The hint is what `identity.svid` in gateway.yaml chooses by.
entry "$vm" /openmcp "$openmcp" -hint openmcp "$@"
entry "$vm" /agents/support-bot "$bot" "$@"
entry "$tools" /tools/tickets "$tickets" "$@"
