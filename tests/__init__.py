"""The tests. What they share is in the modules beside them."""

from overspill import grpc_settings as grpc_settings  # before any test loads gRPC
