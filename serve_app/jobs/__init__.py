"""What a job is. Nothing outside this package and the dialects' routes knows."""
