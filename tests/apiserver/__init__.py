"""A real kube-apiserver with etcd for tests, and an admin client of its own as the oracle."""
