"""How the hub shows what it knows: builders of statuses, Events and published documents; pure where they can be."""
