"""What live sources share: the reader's thread, the watermark, offsets and what is written down of them."""
