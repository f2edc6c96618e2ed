"""Each module measures one thing and answers with one or more tables."""
