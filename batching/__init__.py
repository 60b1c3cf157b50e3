"""The arithmetic of transcription: windows, batches, quality and one timeline. No Ray, no Redis, no clock, no I/O."""
