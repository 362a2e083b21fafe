"""fedgpu: a Kubernetes operator that federates decentralized GPU clusters."""

__version__ = "0.1.0"
