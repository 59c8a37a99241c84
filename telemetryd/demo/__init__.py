"""``telemetryd demo``: the daemon against an API server in memory with a fleet like Rancher's."""
