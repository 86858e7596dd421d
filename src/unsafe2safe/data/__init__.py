"""Where images come from, one file per source; safe decoding; clean encoding."""
