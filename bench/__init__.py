"""What rrmaster costs, beside other servers; see README.md."""
