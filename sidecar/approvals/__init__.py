"""A human decides: asking, waiting for the decision, using the grant."""
