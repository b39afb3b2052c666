"""The sidecar beside slurmctld: the router decides where a job goes, the relay carries its bytes and signals."""
