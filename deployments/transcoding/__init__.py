"""Decoding sources with ffmpeg into PCM parts and speech windows."""
