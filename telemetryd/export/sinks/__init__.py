"""The sinks: each delivers one payload, to a Secret, a folder or a receiver."""
