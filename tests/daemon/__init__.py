"""The daemon as a process and its parts: signals, service manager, reload."""
