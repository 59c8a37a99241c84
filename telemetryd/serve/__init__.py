"""What others see of the daemon: metrics, status, health, and the control socket."""
