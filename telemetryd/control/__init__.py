"""What decides who may write, and what is asked of us by objects in the cluster."""
