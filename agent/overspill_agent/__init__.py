"""The site's side: accepts runs, keeps them durably, drives one backend, and streams what becomes of them."""

from overspill import grpc_settings as grpc_settings  # before any module here loads gRPC
