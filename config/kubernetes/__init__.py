"""Configuration from the objects of a Kubernetes API server: MCPServer, MCPPolicy, ApprovalWorkflow."""
