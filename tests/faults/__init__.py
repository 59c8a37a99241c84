"""The fault matrix: faults brought between a whole daemon and a real API server, one by one."""
