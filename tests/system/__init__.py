"""The whole daemon as a process against a real kube-apiserver."""
