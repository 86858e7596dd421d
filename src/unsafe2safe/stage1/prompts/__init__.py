"""The prompts as files, so that their hash tells which words a record was made with."""
