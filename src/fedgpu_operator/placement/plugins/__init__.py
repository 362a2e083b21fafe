"""Placement plugins, one file each: `refusal(ctx, offer) -> Refusal | None` or a price function; no order here."""
