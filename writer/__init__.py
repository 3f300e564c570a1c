"""The daemon that moves spooled batches into the archive."""
