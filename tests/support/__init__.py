"""What tests of more than one folder share: daemons, receivers, certificates, waiting."""
