#!/bin/sh
# Makes what nobody should find in a repository: the agent's key, the approver's token, passwords, a key for sessions.
#
#   sh secrets.sh          makes what is missing, and says where it lies
#
# secrets/ is for you alone (0700); its files can be read in the containers, whose users have other numbers. Neither it,
# nor .env or who.yaml, which hold no secret but digests, is ever committed: see .gitignore. To begin anew, remove them.
set -eu
folder=${1:-$(dirname "$0")}
cd "$folder"
mkdir -p secrets gateway console
chmod 700 secrets

digest() { # SHA-256 of what comes in, in hexadecimal
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}
make() { # file, command: writes it, unless it is there
  [ -s "secrets/$1" ] || random | tr -d '\n' >"secrets/$1.new"
  [ -s "secrets/$1" ] || mv "secrets/$1.new" "secrets/$1"
  chmod 444 "secrets/$1"
}
random() { # 32 bytes in base64
  head -c 32 /dev/urandom | base64
}

for one in agent_key approver_token redis_password session_key grafana_password; do
  make "$one"
done

redis=$(digest <secrets/redis_password)
rm -f secrets/redis_users
printf 'user default on #%s ~{openmcp}:* resetchannels -@all +@all -@admin -@dangerous +info +config|get\n' \
  "$redis" >secrets/redis_users
chmod 444 secrets/redis_users

cat >gateway/who.yaml <<YAML
# Made by secrets.sh. An agent sends secrets/agent_key as X-API-Key; here is its digest alone.
apiVersion: openmcp.dev/v1alpha1
identity:
  agents:
    - {type: apiKey, keys: [{name: agent, sha256: $(digest <secrets/agent_key)}]}
YAML
cat >console/who.yaml <<YAML
# Made by secrets.sh. Whoever has secrets/approver_token logs in and decides; here is its digest alone.
apiVersion: openmcp.dev/v1alpha1
approvals:
  console: {listen: 0.0.0.0:15021, url: "http://127.0.0.1:15021"}
  tokens: [{name: lead, sha256: $(digest <secrets/approver_token)}]
YAML
chmod 644 gateway/who.yaml console/who.yaml
printf '# Made by secrets.sh.\nOPENMCP_SECRETS=./secrets\n' >.env

echo "the agent's key       $PWD/secrets/agent_key"
echo "the approver's token  $PWD/secrets/approver_token"
echo "Grafana's password    $PWD/secrets/grafana_password   (user admin)"
