"""YAML for API servers: what looks like a date stays the text that stands there, since JSON has no dates."""

from __future__ import annotations

import yaml


class KubeLoader(yaml.SafeLoader):
    """Plain values only: text, numbers, booleans, lists and mappings."""


KubeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
