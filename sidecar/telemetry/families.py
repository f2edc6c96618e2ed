"""The metrics there are: names, kinds, help texts and labels."""

import msgspec


class Family(msgspec.Struct, frozen=True):
    """A metric's name (without `_total`), kind, help text and label names."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


FAMILIES = {
    "requests": Family(
        "openmcp_requests", "counter", "MCP messages decided.", ("server", "method", "tool", "decision")
    ),
    "errors": Family("openmcp_errors", "counter", "Messages that ended in an error.", ("server", "method", "kind")),
    "sessions": Family("openmcp_sessions", "counter", "Sessions opened and ended.", ("server", "event")),
    "stream_events": Family("openmcp_stream_events", "counter", "Events passed on in streams.", ("server", "kind")),
    "findings": Family(
        "openmcp_findings",
        "counter",
        "What response rules found in messages of servers.",
        ("server", "policy", "rule", "action"),
    ),
    "stdio_processes": Family("openmcp_stdio_processes", "gauge", "Processes of stdio servers.", ("server",)),
    "stdio_starts": Family(
        "openmcp_stdio_starts", "counter", "Attempts to start a process of a stdio server.", ("server", "result")
    ),
    "stdio_ends": Family("openmcp_stdio_ends", "counter", "Ends of such processes.", ("server", "reason")),
    "stdio_lines": Family(
        "openmcp_stdio_stderr_lines", "counter", "Lines on standard error of such processes.", ("server", "result")
    ),
    "connects": Family(
        "openmcp_connects", "counter", "Connection attempts to endpoints.", ("server", "endpoint", "result")
    ),
    "retries": Family(
        "openmcp_retries", "counter", "Calls tried again, by what was wrong before.", ("server", "reason")
    ),
    "ejections": Family(
        "openmcp_endpoint_ejections", "counter", "How often an endpoint was left out.", ("server", "endpoint")
    ),
    "ejected": Family("openmcp_endpoint_ejected", "gauge", "Whether an endpoint is left out.", ("server", "endpoint")),
    "rate_limit_buckets": Family("openmcp_rate_limit_buckets", "gauge", "Buckets that are not full.", ("server",)),
    "rate_limit_unshared": Family(
        "openmcp_rate_limit_unshared",
        "gauge",
        "Whether shared limits are counted here alone, as Redis does not answer.",
    ),
    "unidentified": Family(
        "openmcp_identification_refused", "counter", "Callers that were not identified.", ("reason",)
    ),
    "keys_fetched": Family(
        "openmcp_issuer_keys_fetches", "counter", "Attempts to get the keys of issuers.", ("issuer", "result")
    ),
    "tls_refused": Family(
        "openmcp_tls_refused", "counter", "TLS handshakes that failed, by who was refused.", ("side", "reason")
    ),
    "credential_fetches": Family(
        "openmcp_credential_fetches", "counter", "Attempts to get access tokens for servers.", ("server", "result")
    ),
    "svid_rotations": Family("openmcp_svid_rotations", "counter", "Replacements of our SVID by its successor."),
    "workload_api_failures": Family(
        "openmcp_workload_api_failures", "counter", "Calls of the Workload API that brought nothing.", ("kind",)
    ),
    "svid_expires": Family("openmcp_svid_expires_seconds", "gauge", "When our SVID ends, in Unix time."),
    "tools_withheld": Family(
        "openmcp_tools_withheld", "gauge", "Tools whose definition changed since it was pinned.", ("server",)
    ),
    "approval_notices": Family(
        "openmcp_approval_notices", "counter", "Attempts to tell approvers by a channel.", ("channel", "result")
    ),
    "approval_forged": Family(
        "openmcp_approval_forged", "counter", "Requests to channels' endpoints without a good signature."
    ),
    "approvals": Family(
        "openmcp_approvals", "counter", "What happened to requests for approval and to grants.", ("server", "event")
    ),
    "held": Family("openmcp_calls_held", "gauge", "Calls that wait for a human to decide.", ("server",)),
    "state_failing": Family(
        "openmcp_state_failing", "gauge", "Whether the store of approvals did not answer when it was last asked."
    ),
    "reloads": Family("openmcp_config_reloads", "counter", "Configuration reloads.", ("result",)),
    "otlp_exported": Family(
        "openmcp_otlp_exported", "counter", "Spans, data points and log records that a collector took.", ("signal",)
    ),
    "otlp_dropped": Family(
        "openmcp_otlp_dropped", "counter", "Spans and log records that were not exported.", ("signal",)
    ),
    "otlp_failures": Family("openmcp_otlp_failures", "counter", "Exports that failed.", ("signal",)),
    "audit_lines": Family("openmcp_audit_lines", "counter", "Lines written to the record."),
    "audit_failures": Family("openmcp_audit_failures", "counter", "Attempts to write the record that failed."),
    "audit_dropped": Family("openmcp_audit_dropped", "counter", "Lines the record lacks."),
    "in_flight": Family("openmcp_in_flight", "gauge", "Requests being worked on.", ("server",)),
    "streams": Family("openmcp_streams", "gauge", "Open streams.", ("server", "kind")),
    "healthy": Family(
        "openmcp_endpoint_healthy", "gauge", "Whether an endpoint takes requests.", ("server", "endpoint")
    ),
    "pool": Family("openmcp_pool_connections", "gauge", "Connections to endpoints.", ("server", "endpoint", "state")),
    "connections": Family("openmcp_connections", "gauge", "Connections of callers.", ("listener",)),
    "config_age": Family(
        "openmcp_config_age_seconds",
        "gauge",
        "Seconds since this configuration was loaded; from Kubernetes: since the API server was heard of.",
    ),
    "config_closed": Family("openmcp_config_closed", "gauge", "1 while all is denied for want of a configuration."),
    "config_objects": Family(
        "openmcp_config_objects",
        "gauge",
        "Objects of Kubernetes: accepted, in force by their previous version, or denied.",
        ("kind", "state"),
    ),
    "kubernetes_watch_errors": Family(
        "openmcp_kubernetes_watch_errors",
        "counter",
        "Failures to list or watch objects of Kubernetes.",
        ("kind", "reason"),
    ),
    "config_info": Family("openmcp_config_info", "gauge", "The digest of the configuration in force.", ("digest",)),
    "audit_buffered": Family("openmcp_audit_buffered_bytes", "gauge", "Bytes of the record not yet written."),
    "audit_failing": Family("openmcp_audit_failing", "gauge", "Whether the record's output refuses."),
    "build": Family("openmcp_build_info", "gauge", "The version that runs.", ("version",)),
    "duration": Family(
        "openmcp_request_duration_seconds",
        "histogram",
        "From a message's last byte in to its answer.",
        ("server", "method"),
    ),
    "upstream": Family(
        "openmcp_upstream_duration_seconds", "histogram", "Waiting for the MCP server, per request.", ("server",)
    ),
}
"""Every metric but those of the process, by the name that is used here."""
