"""The hub's loops: each pass loads the hub's state, calls services and applies what they decide."""
