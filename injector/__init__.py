"""The part that puts the sidecar into pods: the admission webhook, its certificates, and the status of our objects."""
