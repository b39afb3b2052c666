"""What others ask of the agent: relays over gRPC, runners over HTTPS."""
