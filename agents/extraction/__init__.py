"""To come within this change."""
