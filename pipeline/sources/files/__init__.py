"""Files as a source: found, cut and grouped to work, read ahead; `formats` says what is in them."""
