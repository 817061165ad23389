"""What people would rather look at: clips, curves, pages."""
