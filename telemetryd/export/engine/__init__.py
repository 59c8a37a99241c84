"""The engine: schedules exporters, runs their attempts, retries."""
