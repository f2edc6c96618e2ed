"""Stand-ins for parts that are not ours: certificate authorities, the Workload API."""
