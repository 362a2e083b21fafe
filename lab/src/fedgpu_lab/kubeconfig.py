"""Kubeconfigs as text: a bearer token and inline CA data, so that nothing in them is a path or a program to run."""

from __future__ import annotations

import base64

import yaml


def render(*, name: str, server: str, ca_pem: str, token: str) -> str:
    """A kubeconfig (YAML) whose one context is called `name`."""
    ca_data = base64.b64encode(ca_pem.encode()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": ca_data}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False)
