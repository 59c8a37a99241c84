"""The way out: canonical payloads, the manager that schedules, and one sink a module."""
