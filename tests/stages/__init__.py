"""The stages as plain objects: real ffmpeg, real speech detection, real Whisper."""
