"""The contract that both sides share: messages, states, errors, framings.

Importing this package loads nothing else: the proxy imports `overspill.proxy_framing` in milliseconds.
"""

__version__ = "0.1.0"
