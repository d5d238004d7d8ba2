"""Attacks on the shared deny list: a log that can be recomputed, writers that die anywhere, readers that watch."""
