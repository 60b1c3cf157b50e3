"""The work on jobs: claims, pipeline, webhooks, summaries, upkeep."""
