"""The sidecar beside slurmctld: the router decides where a job goes, the relay carries its bytes and signals."""

from overspill import grpc_settings as grpc_settings  # before any module here loads gRPC
