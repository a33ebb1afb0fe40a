"""The filter language of libpcap, and captures."""
