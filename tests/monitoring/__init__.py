"""`deploy/monitoring`: alerts, dashboard and scrape configuration, held to the daemon's metrics."""
