"""Streams, their credits, the named queues at their ends, and element codecs."""
