"""What gRPC reads from the environment as it is loaded. Import this before gRPC; both sides' packages do.

gRPC for Python has no way to ask for TLS 1.3 (grpc/grpc#37305). Its list of cipher suites counts for TLS 1.2 alone, and
with nothing in it but one that needs a pre-shared key, which there is not, no handshake below TLS 1.3 can succeed, be
it as a server or as a client. A test shows both with OpenSSL at the other end.
"""

from __future__ import annotations

import os
import sys

_SETTINGS = {
    "GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-AES128-CBC-SHA",
    # gRPC's fork handlers would stop its threads for each of Slurm's commands; what is forked here only ever execs.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}

if "grpc" in sys.modules and any(os.environ.get(name) != value for name, value in _SETTINGS.items()):
    raise ImportError("gRPC was loaded before overspill.grpc_settings, so it would speak TLS 1.2: import that first")
os.environ.update(_SETTINGS)
# What its core says below errors is no JSON, and a line for each stranger's broken handshake.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
