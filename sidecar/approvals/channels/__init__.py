"""Where approvers are told of requests, and may decide on them, outside of the console: Slack, e-mail."""
