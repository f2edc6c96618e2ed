"""The attack catalogue of the design: each attack has its tests, and none is forgotten."""

import importlib
import inspect

import pytest

CATALOGUE: dict[str, tuple[str, ...]] = {
    "batch hides a tools/call": (
        "test_parsing.test_batch_hides_a_tools_call",
        "test_batches.test_each_message_of_a_batch_is_judged_by_itself",
    ),
    "duplicate name or method": ("test_parsing.test_duplicate_name_or_method",),
    "Name, params with a long s, trailing NUL": ("test_parsing.test_lookalike_keys",),
    "escapes in keys": ("test_parsing.test_escapes_in_keys_are_the_same_key",),
    "BOM, UTF-16, bad UTF-8": ("test_parsing.test_other_encodings",),
    "media types": ("test_parsing.test_media_types",),
    "gzip body": ("test_parsing.test_a_compressed_body",),
    "id null, missing, float": (
        "test_parsing.test_ids_that_are_no_ids",
        "test_parsing.test_a_call_without_an_id_is_a_notification_nobody_knows",
    ),
    "method and result together": ("test_parsing.test_method_and_result_together_and_other_mixtures",),
    "header and body mismatch, base64 names": (
        "test_headers.test_header_and_body_mismatch",
        "test_headers.test_a_denied_name_under_an_allowed_header",
    ),
    "repeated Mcp-Name, session, version headers": (
        "test_headers.test_repeated_headers",
        "test_headers.test_repeated_headers_in_other_letters",
    ),
    "legacy header with modern body": (
        "test_headers.test_legacy_header_with_modern_body",
        "test_headers.test_modern_header_with_legacy_body",
    ),
    "unknown version": ("test_headers.test_unknown_version", "test_headers.test_unknown_modern_version"),
    "forced downgrade": ("test_headers.test_forced_downgrade",),
    "unknown or extension method": ("test_parsing.test_unknown_or_extension_method",),
    "call of a hidden tool": ("test_surface.test_call_of_a_hidden_tool",),
    "filtered item on page N": ("test_surface.test_filtered_item_on_page_n",),
    "public-cached list": ("test_surface.test_public_cached_list",),
    "stale list after revoke": ("test_surface.test_stale_list_after_revoke",),
    "definition of an approved tool changes (rug pull)": (
        "test_rug_pull.test_definition_of_an_approved_tool_changes",
        "test_rug_pull.test_two_definitions_of_one_tool",
    ),
    "self-declared readOnlyHint": ("test_declarations.test_self_declared_read_only_hint",),
    "task payload uninspected": (
        "test_leaks.test_task_payload_uninspected",
        "test_leaks.test_a_rule_for_a_tool_holds_for_its_task",
    ),
    "foreign task id": ("test_surface.test_foreign_task_id", "test_surface.test_a_task_cannot_be_taken_over"),
    "MRTR retry with changed arguments": ("test_surface.test_mrtr_retry_with_changed_arguments",),
    "requestState replayed": ("test_declarations.test_request_state_replayed", "test_surface.test_an_expired_state"),
    "requestState tampered, of another user": ("test_surface.test_mrtr_retry_with_changed_arguments",),
    "upstream uses our inputRequests key": ("test_surface.test_upstream_uses_our_input_request_keys",),
    "unknown resultType": ("test_surface.test_unknown_result_type",),
    "response on another stream": (
        "test_streams.test_a_response_on_another_stream",
        "test_streams.test_a_response_on_the_notification_stream",
    ),
    "wrong-id or second response": (
        "test_streams.test_an_event_that_is_no_answer",
        "test_streams.test_a_second_response",
    ),
    'id "1" for 1': ("test_streams.test_a_json_answer_that_is_none", "test_streams.test_an_event_that_is_no_answer"),
    "CR-only SSE, BOM": ("test_streams.test_cr_only_sse_and_other_forms",),
    "split data": ("test_streams.test_split_data",),
    "batch response": ("test_streams.test_a_json_answer_that_is_none", "test_streams.test_an_event_that_is_no_answer"),
    "application/jsonp reply": ("test_streams.test_answers_of_other_types",),
    "result and error together": ("test_streams.test_a_json_answer_that_is_none",),
    "secret only in structuredContent, in a base64 blob": (
        "test_leaks.test_secret_in_every_place",
        "test_leaks.test_blocked_in_every_place",
    ),
    "split or encoded secrets": (
        "test_leaks.test_split_secrets",
        "test_leaks.test_split_over_the_stream",
        "test_leaks.test_encoded_secrets",
    ),
    "leak via error.data": ("test_leaks.test_secret_in_every_place", "test_leaks.test_blocked_in_every_place"),
    "leak via log, progress, statusMessage": ("test_leaks.test_leak_via_log_progress_status_message",),
    "leak via questions": ("test_leaks.test_leak_via_a_question", "test_leaks.test_leak_via_input_requests"),
    "exfiltration via _meta, progressToken": (
        "test_exfiltration.test_exfiltration_via_meta_progress_token_and_all_else",
        "test_exfiltration.test_exfiltration_in_another_form",
        "test_exfiltration.test_exfiltration_in_an_answer_to_an_elicitation",
    ),
    "exfiltration via headers": (
        "test_headers.test_exfiltration_by_mcp_param",
        "test_exfiltration.test_exfiltration_by_a_header",
        "test_exfiltration.test_exfiltration_by_the_trace_state_of_other_methods",
    ),
    "exfiltration via baggage": ("test_headers.test_exfiltration_by_baggage",),
    "completion enumerates denied arguments": (
        "test_surface.test_completion_enumerates_denied_arguments",
        "test_conditions.test_completion_enumerates_denied_arguments",
    ),
    "file:///a/../b, %2e": ("test_surface.test_disguised_uris",),
    "subscribe to a denied URI": (
        "test_surface.test_disguised_uris",
        "test_surface.test_listen_to_a_denied_uri",
        "test_streams.test_an_update_of_a_denied_resource",
    ),
    "resource_link or embedded resource with a denied URI": (
        "test_embedded.test_resource_link_or_embedded_resource_with_a_denied_uri",
    ),
    "conditions: type confusion, number forms, addresses in other forms": (
        "test_conditions.test_type_confusion",
        "test_conditions.test_number_and_exponent_forms",
        "test_conditions.test_an_address_in_another_form",
    ),
    "conditions: duplicate and look-alike keys of arguments": ("test_conditions.test_duplicate_keys",),
    "conditions: a URI in two forms": ("test_conditions.test_uri_in_two_forms",),
    "stolen session id": (
        "test_sessions.test_stolen_session_id",
        "test_sessions.test_guessed_session_ids",
        "test_batches.test_a_stolen_session_in_a_batch",
    ),
    "foreign Last-Event-ID": (
        "test_sessions.test_foreign_last_event_id",
        "test_sessions.test_last_event_id_of_another_session_of_the_same_agent",
    ),
    "DELETE of another's session": ("test_sessions.test_delete_of_anothers_session",),
    "forged answer to an elicitation": ("test_sessions.test_forged_answer_to_an_elicitation",),
    "sampling with tools": ("test_sessions.test_sampling_with_tools_and_url_elicitation_only_where_offered",),
    "phishing elicitation URL": (
        "test_sessions.test_sampling_with_tools_and_url_elicitation_only_where_offered",
        "test_leaks.test_phishing_elicitation_url",
    ),
    "SSE endpoint to a foreign host": (
        "test_streams.test_unknown_events",
        "test_sse_servers.test_sse_endpoint_to_a_foreign_host",
        "test_sse_servers.test_a_second_endpoint_event",
    ),
    "address of another agent's HTTP+SSE stream": (
        "test_old_agents.test_the_address_is_the_agents_alone",
        "test_old_agents.test_before_a_session_the_address_is_the_agents_too",
        "test_old_agents.test_guessed_addresses",
        "test_old_agents.test_a_foreign_session_id_beside_the_address",
    ),
    "answer on another session's HTTP+SSE stream": (
        "test_sse_servers.test_an_answer_reaches_its_own_session_alone",
        "test_old_agents.test_nothing_of_a_stream_leaks_into_another",
    ),
    "redirect to the upstream": ("test_upstream.test_redirects_are_not_followed",),
    "resource_metadata to the upstream": ("test_upstream.test_challenges_are_not_passed_on",),
    "token pass-through": ("test_headers.test_token_pass_through",),
    "DNS rebinding": ("test_headers.test_dns_rebinding", "test_headers.test_foreign_origin"),
    "CRLF in Mcp-Param": ("test_headers.test_crlf_in_mcp_param", "test_headers.test_crlf_in_a_name"),
    "deep JSON": ("test_parsing.test_deep_json", "test_streams.test_a_json_answer_that_is_none"),
    "huge JSON": ("test_framing.test_a_body_too_large", "test_streams.test_an_answer_too_large"),
    "endless SSE": ("test_streams.test_an_endless_event", "test_declarations.test_endless_sse"),
    "$ref fetch": ("test_descriptions.test_ref_fetch",),
    "schema bomb": ("test_descriptions.test_schema_bomb",),
    "log injection": ("test_parsing.test_log_injection", "test_parsing.test_log_injection_by_length"),
    "log write failure": ("test_surface.test_log_write_failure",),
    "hidden text in descriptions": (
        "test_descriptions.test_hidden_text_in_descriptions",
        "test_descriptions.test_hidden_text_in_names",
    ),
    "__proto__ keys": ("test_parsing.test_proto_keys_are_data",),
    "the same tool name on two upstreams": ("test_surface.test_the_same_tool_name_on_two_upstreams",),
    "bad credential taken for none": ("test_identity.test_a_bad_credential_never_becomes_anonymous",),
    "two credentials at once": ("test_identity.test_a_bad_credential_never_becomes_anonymous",),
    "agent's token sent upstream": ("test_identity.test_the_agents_credential_never_goes_upstream",),
    "upstream's challenge to the agent": ("test_identity.test_an_upstreams_challenge_never_reaches_the_agent",),
    "XFCC from anybody": ("test_identity.test_the_proxys_header_is_worth_nothing_from_others",),
    "session taken over by another proof": ("test_identity.test_a_session_is_its_principals_by_the_same_proof",),
    "stream outlives its token": ("test_identity.test_a_stream_ends_with_the_token_that_opened_it",),
    "metadata under a foreign Host": ("test_identity.test_a_host_that_is_not_ours_is_never_repeated",),
    "agent answers its own approval": ("test_approvals.test_an_agent_answers_its_own_approval",),
    "approve then swap arguments": (
        "test_approvals.test_approve_then_swap_arguments",
        "test_approvals.test_a_grant_is_not_for_another_tool_agent_or_method",
    ),
    "concurrent use of a one-use grant": (
        "test_approvals.test_concurrent_use_of_a_one_use_grant",
        "test_approvals.test_held_calls_share_a_one_use_grant",
    ),
    "cancel while held still executes": (
        "test_approvals.test_cancel_while_held_still_executes",
        "test_approvals.test_a_client_that_has_gone_gets_nothing_done",
        "test_approvals.test_a_decision_and_a_cancellation_at_once_make_no_call_after_it",
    ),
    "stdio newline injection": ("test_stdio.test_stdio_newline_injection",),
    "flood of held calls": ("test_approvals.test_flood_of_held_calls", "test_approvals.test_flood_of_tasks"),
}
"""Attack -> the tests that make it, as module.function of this folder."""


@pytest.mark.parametrize("attack", CATALOGUE)
def test_the_attack_is_made(attack: str) -> None:
    for name in CATALOGUE[attack]:
        module, _, function = name.partition(".")
        test = getattr(importlib.import_module(f"tests.security.{module}"), function, None)
        assert inspect.iscoroutinefunction(test) or inspect.isfunction(test), f"{name} is gone"
