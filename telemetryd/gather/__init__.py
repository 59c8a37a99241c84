"""From records to facts: what is read of each kind, how it adds up, and who it is told of."""
