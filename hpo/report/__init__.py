"""Tables and figures from stored records; nothing here trains."""
