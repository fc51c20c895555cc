"""What it costs, against what; see README.md."""
