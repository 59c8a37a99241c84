"""The siege: the daemon in a small cgroup, attacked from all sides, still serves its clients."""
