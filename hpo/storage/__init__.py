"""Files that survive a kill, in a folder or a bucket; nothing here knows a cell or a study."""
