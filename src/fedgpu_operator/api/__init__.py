"""The custom resources as pydantic models: the only place that knows how objects look on the wire."""
