"""Accepted = on disk: revocations that wait for Kafka, in one SQLite file that one thread writes."""
