"""Kubernetes API servers over the official asyncio client: one thin typed client, and safe kubeconfigs."""
