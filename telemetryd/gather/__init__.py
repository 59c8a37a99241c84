"""From objects to facts: what is read of each kind, how it adds up, and the snapshots of it."""
