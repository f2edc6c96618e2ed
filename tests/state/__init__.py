"""State stores: each passes the contract, and has its own ways to fail."""
