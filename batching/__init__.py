"""Pure logic of transcription: no Ray, no Redis, no clock, no I/O."""
