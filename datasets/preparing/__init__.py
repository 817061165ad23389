"""From files to shards: `tubelet prepare`."""
