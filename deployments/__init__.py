"""The stages that audio passes: ingestion, transcoder, transcriber. They know artifacts and options, never jobs."""
