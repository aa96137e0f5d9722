"""The Merkle tree of the evidence log and its signed checkpoints: RFC 6962 over C2SP tiles, no Django, no I/O."""
