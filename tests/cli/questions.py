"""A configuration to ask questions about."""

CONFIGURATION = """apiVersion: openmcp.dev/v1alpha1
servers:
  - {name: zendesk, endpoints: ["http://127.0.0.1:1/mcp"]}
policies:
  - name: zendesk-baseline
    servers: [zendesk]
    requests:
      - {name: no-destructive, tools: ["delete_*", "merge_*"], action: deny, message: destructive tools are off}
  - name: support
    agents: ["key:support-*", {claims: {team: support}}]
    servers: [zendesk]
    requests:
      - {name: metadata, tools: ["search_*"], action: allow}
      - {name: small, tools: [refund], action: allow, when: [{path: $.amount, op: lte, value: 10}]}
      - name: ticket-text
        tools: [get_ticket]
        action: requireApproval
        when: [{path: $.ticket_id, op: matches, value: '[0-9]{1,12}'}]
        approval:
          {workflow: leads, show: [$.ticket_id], bind: [$.ticket_id], duration: 30m, maxDuration: 4h, maxUses: 20}
      - {name: read, resources: ["ticket://*"], action: allow}
  - name: trial
    mode: shadow
    servers: [zendesk]
    requests:
      - {name: no-searching, tools: ["search_*"], action: deny}
approvals:
  workflows: [{name: leads, approvers: ["token:lead"]}]
"""
