"""The write-ahead log as plain code: its records, its files, reading it back, and recovery.  No actor, no thread."""
