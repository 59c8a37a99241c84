"""How the fleet grew: samples of snapshots in slots of time, the store that keeps them, reports."""
