"""How the wire is spelled. No I/O: bytes in, messages out, and back."""
