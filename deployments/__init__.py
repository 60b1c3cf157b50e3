"""Stages of transcription. They know artifacts and options, never jobs."""
