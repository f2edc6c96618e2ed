"""What is kept of requests for approval and grants, and where: the record, its lifecycle, the stores."""
