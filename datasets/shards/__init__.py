"""A dataset as it lies on the disk or elsewhere: its card, tars, their indices; made of anybody's tars; verified."""
