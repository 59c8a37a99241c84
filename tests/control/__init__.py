"""Who may write, and what objects in the cluster ask for."""
